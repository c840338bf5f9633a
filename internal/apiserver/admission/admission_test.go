package admission

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

// fixed is Objects over a map.
type fixed map[schema.GroupResource][]meta.Object

func (f fixed) Get(_ context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error) {
	for _, o := range f[gr] {
		if meta.KeyOf(o) == key {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(gr, key.Name)
}

func (f fixed) List(_ context.Context, gr schema.GroupResource, _ string) ([]meta.Object, error) {
	return f[gr], nil
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func inNS(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }

// write describes a write to gr; the object's own name and namespace count.
func write(op Operation, gr schema.GroupResource, sub string, obj, old runtime.Object) *Attributes {
	a := &Attributes{Operation: op, Resource: gr.WithVersion("v1"), Subresource: sub, User: &request.User{Name: "ann"}}
	if obj != nil {
		a.Object = obj
	}
	if old != nil {
		a.Old = old
	}
	for _, o := range []runtime.Object{obj, old} {
		if m, ok := o.(metav1.Object); ok && o != nil && a.Name == "" {
			a.Name, a.Namespace = m.GetName(), m.GetNamespace()
		}
	}
	return a
}

// admit runs one plugin as the server does.
func admit(p *Plugin, a *Attributes) error {
	c := Chain{p}
	if err := c.Mutate(context.Background(), a); err != nil {
		return err
	}
	return c.Validate(context.Background(), a)
}

// wants fails unless err is as said: "" for none.
func wants(t *testing.T, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want %s", name, err, want)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	p := NamespaceLifecycle(fixed{namespaceResource: {
		&corev1.Namespace{ObjectMeta: named("ns")},
		&corev1.Namespace{ObjectMeta: named("ending"), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}},
	}})
	in := func(namespace string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}}
	}
	ending := "pods \"p\" is forbidden: unable to create new content in namespace ending because it is being terminated"
	for _, c := range []struct {
		name string
		a    *Attributes
		want string
	}{
		{"create", write(Create, podResource, "", in("ns"), nil), ""},
		{"create nowhere", write(Create, podResource, "", in("gone"), nil), `namespaces "gone" not found`},
		{"update nowhere", write(Update, podResource, "", in("gone"), in("gone")), `namespaces "gone" not found`},
		{"delete nowhere", write(Delete, podResource, "", nil, in("gone")), ""},
		{"create in an ending one", write(Create, podResource, "", in("ending"), nil), ending},
		{"update in an ending one", write(Update, podResource, "", in("ending"), in("ending")), ""},
		{"create a node", write(Create, nodeResource, "", &corev1.Node{ObjectMeta: named("n")}, nil), ""},
		{"delete default", write(Delete, namespaceResource, "", nil, &corev1.Namespace{ObjectMeta: named("default")}), `namespaces "default" is forbidden: this namespace may not be deleted`},
		{"delete kube-system", write(Delete, namespaceResource, "", nil, &corev1.Namespace{ObjectMeta: named("kube-system")}), "this namespace may not be deleted"},
		{"delete another", write(Delete, namespaceResource, "", nil, &corev1.Namespace{ObjectMeta: named("ns")}), ""},
	} {
		wants(t, c.name, admit(p, c.a), c.want)
	}
	err := admit(p, write(Create, podResource, "", in("ending"), nil))
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("no cause: %#v", err)
	}
}

func TestServiceAccountInjects(t *testing.T) {
	no := false
	objects := fixed{serviceAccounts: {
		&corev1.ServiceAccount{ObjectMeta: inNS("default"), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}},
		&corev1.ServiceAccount{ObjectMeta: inNS("shy"), AutomountServiceAccountToken: &no},
	}}
	p := &corev1.Pod{ObjectMeta: inNS("p"), Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}},
		Containers:     []corev1.Container{{Name: "a"}, {Name: "own", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: tokenPath}}}},
	}}
	wants(t, "plain", admit(ServiceAccount(objects, nil), write(Create, podResource, "", p, nil)), "")
	if p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" {
		t.Errorf("service account %q", p.Spec.ServiceAccountName)
	}
	if diff := cmp.Diff([]corev1.LocalObjectReference{{Name: "pull"}}, p.Spec.ImagePullSecrets); diff != "" {
		t.Error(diff)
	}
	if len(p.Spec.Volumes) != 1 {
		t.Fatalf("volumes: %v", p.Spec.Volumes)
	}
	name := p.Spec.Volumes[0].Name
	mount := []corev1.VolumeMount{{Name: name, ReadOnly: true, MountPath: tokenPath}}
	if diff := cmp.Diff(mount, p.Spec.InitContainers[0].VolumeMounts); diff != "" || !strings.HasPrefix(name, tokenVolumePrefix) {
		t.Error(name, diff)
	}
	if diff := cmp.Diff(mount, p.Spec.Containers[0].VolumeMounts); diff != "" {
		t.Error(diff)
	}
	if p.Spec.Containers[1].VolumeMounts[0].Name != "v" || len(p.Spec.Containers[1].VolumeMounts) != 1 {
		t.Errorf("own mount: %v", p.Spec.Containers[1].VolumeMounts)
	}
	if diff := cmp.Diff(tokenVolume(name), p.Spec.Volumes[0]); diff != "" {
		t.Error(diff)
	}

	shy := &corev1.Pod{ObjectMeta: inNS("p"), Spec: corev1.PodSpec{ServiceAccountName: "shy", Containers: []corev1.Container{{Name: "a"}}}}
	wants(t, "shy", admit(ServiceAccount(objects, nil), write(Create, podResource, "", shy, nil)), "")
	if len(shy.Spec.Volumes) != 0 {
		t.Errorf("token mounted although the account says no: %v", shy.Spec.Volumes)
	}
}

func TestServiceAccountRefuses(t *testing.T) {
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: inNS("p")}
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		change(p)
		return p
	}
	strict := &corev1.ServiceAccount{ObjectMeta: inNS("strict"), Secrets: []corev1.ObjectReference{{Name: "mine"}}}
	strict.Annotations = map[string]string{enforceMountableSecrets: "true"}
	withSecret := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: inNS("p"), Spec: corev1.PodSpec{ServiceAccountName: "strict",
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}}}
	}
	env := &corev1.Pod{ObjectMeta: inNS("p"), Spec: corev1.PodSpec{ServiceAccountName: "strict", EphemeralContainers: []corev1.EphemeralContainer{{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}}}}}}}
	plugin := ServiceAccount(fixed{serviceAccounts: {strict}}, nil)
	for _, c := range []struct {
		name string
		a    *Attributes
		want string
	}{
		{"unknown account", write(Create, podResource, "", &corev1.Pod{ObjectMeta: inNS("p")}, nil),
			`pods "p" is forbidden: error looking up service account ns/default: serviceaccount "default" not found`},
		{"mirror pod", write(Create, podResource, "", mirror(func(*corev1.Pod) {}), nil), ""},
		{"mirror pod with account", write(Create, podResource, "", mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), nil), "a mirror pod may not reference service accounts"},
		{"mirror pod with secret", write(Create, podResource, "", mirror(func(p *corev1.Pod) {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}}
		}), nil), "a mirror pod may not reference secrets"},
		{"mirror pod with token", write(Create, podResource, "", mirror(func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{tokenVolume("t")} }), nil), "a mirror pod may not use ServiceAccountToken volume projections"},
		{"listed secret", write(Create, podResource, "", withSecret("mine"), nil), ""},
		{"unlisted secret", write(Create, podResource, "", withSecret("other"), nil), `volume with secret.secretName="other" is not allowed because service account strict does not reference that secret`},
		{"unlisted secret of an ephemeral container", write(Update, podResource, "ephemeralcontainers", env, env), `ephemeral container e with envVar X referencing secret.secretName="other" is not allowed`},
	} {
		wants(t, c.name, admit(plugin, c.a), c.want)
	}
}

func TestServiceAccountWaitsForDefault(t *testing.T) {
	sa := &corev1.ServiceAccount{ObjectMeta: inNS("default")}
	objects := fixed{}
	await := func(_ context.Context, gr schema.GroupResource, _ meta.Key) (meta.Object, error) {
		objects[gr] = []meta.Object{sa}
		return sa, nil
	}
	wants(t, "new namespace", admit(ServiceAccount(objects, await), write(Create, podResource, "", &corev1.Pod{ObjectMeta: inNS("p")}, nil)), "")
}

func TestPriority(t *testing.T) {
	never, low := corev1.PreemptNever, int32(7)
	classes := fixed{priorityClasses: {
		&schedulingv1.PriorityClass{ObjectMeta: named("usual"), Value: 5, GlobalDefault: true},
		&schedulingv1.PriorityClass{ObjectMeta: named("quiet"), Value: 9, PreemptionPolicy: &never},
	}}
	pod := func(class string, priority *int32, policy *corev1.PreemptionPolicy) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: inNS("p"), Spec: corev1.PodSpec{PriorityClassName: class, Priority: priority, PreemptionPolicy: policy}}
	}
	for _, c := range []struct {
		name    string
		objects fixed
		pod     *corev1.Pod
		class   string
		value   int32
		policy  corev1.PreemptionPolicy
		want    string
	}{
		{"none", fixed{}, pod("", nil, nil), "", 0, corev1.PreemptLowerPriority, ""},
		{"default", classes, pod("", nil, nil), "usual", 5, corev1.PreemptLowerPriority, ""},
		{"named", classes, pod("quiet", nil, nil), "quiet", 9, never, ""},
		{"unknown", classes, pod("x", nil, nil), "", 0, "", `pods "p" is forbidden: no PriorityClass with name x was found`},
		{"number", classes, pod("", &low, nil), "", 0, "", "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 5 from the given PriorityClass name"},
		{"policy", classes, pod("", nil, &never), "", 0, "", "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name"},
	} {
		err := admit(Priority(c.objects), write(Create, podResource, "", c.pod, nil))
		wants(t, c.name, err, c.want)
		if err == nil && (c.pod.Spec.PriorityClassName != c.class || *c.pod.Spec.Priority != c.value || *c.pod.Spec.PreemptionPolicy != c.policy) {
			t.Errorf("%s: %q %d %s", c.name, c.pod.Spec.PriorityClassName, *c.pod.Spec.Priority, *c.pod.Spec.PreemptionPolicy)
		}
	}
	second := &schedulingv1.PriorityClass{ObjectMeta: named("second"), GlobalDefault: true}
	wants(t, "second default", admit(Priority(classes), write(Create, priorityClasses, "", second, nil)), "PriorityClass usual is already marked as default. Only one default can exist")
	old := pod("", &low, &never)
	now := pod("", nil, nil)
	wants(t, "update", admit(Priority(classes), write(Update, podResource, "", now, old)), "")
	if now.Spec.Priority != &low {
		t.Error("update lost the priority")
	}
}

func TestRuntimeClass(t *testing.T) {
	cpu := corev1.ResourceList{"cpu": resource.MustParse("100m")}
	objects := fixed{runtimeClasses: {
		&nodev1.RuntimeClass{ObjectMeta: named("vm"), Overhead: &nodev1.Overhead{PodFixed: cpu},
			Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"kvm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm"}}}},
		&nodev1.RuntimeClass{ObjectMeta: named("plain")},
	}}
	pod := func(class string, overhead corev1.ResourceList, selector map[string]string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: inNS("p"), Spec: corev1.PodSpec{Overhead: overhead, NodeSelector: selector}}
		if class != "" {
			p.Spec.RuntimeClassName = &class
		}
		return p
	}
	other := corev1.ResourceList{"cpu": resource.MustParse("1")}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"none", pod("", nil, nil), ""},
		{"plain", pod("plain", nil, nil), ""},
		{"vm", pod("vm", nil, map[string]string{"a": "b"}), ""},
		{"vm, same overhead", pod("vm", cpu, nil), ""},
		{"unknown", pod("x", nil, nil), `pods "p" is forbidden: pod rejected: RuntimeClass "x" not found`},
		{"other overhead", pod("vm", other, nil), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		{"overhead of nobody", pod("", cpu, nil), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{"overhead of plain", pod("plain", cpu, nil), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{"conflict", pod("vm", nil, map[string]string{"kvm": "no"}), "conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no"},
	} {
		wants(t, c.name, admit(RuntimeClass(objects), write(Create, podResource, "", c.pod, nil)), c.want)
		if c.name != "vm" {
			continue
		}
		want := pod("vm", cpu, map[string]string{"a": "b", "kvm": "yes"}).Spec
		want.Tolerations = []corev1.Toleration{{Key: "vm"}}
		if diff := cmp.Diff(want, c.pod.Spec); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTolerationsAndTaints(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: inNS("p"), Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists}}}}
	wants(t, "pod", admit(DefaultTolerationSeconds(), write(Create, podResource, "", p, nil)), "")
	seconds := int64(300)
	want := []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
	}
	if diff := cmp.Diff(want, p.Spec.Tolerations); diff != "" {
		t.Error(diff)
	}
	n := &corev1.Node{ObjectMeta: named("n")}
	for range 2 {
		wants(t, "node", admit(TaintNodesByCondition(), write(Create, nodeResource, "", n, nil)), "")
	}
	if diff := cmp.Diff([]corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}, n.Spec.Taints); diff != "" {
		t.Error(diff)
	}
}
