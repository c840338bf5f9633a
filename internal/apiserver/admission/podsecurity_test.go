package admission

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/request"
)

const psLabel = "pod-security.kubernetes.io/"

func namespaceWith(labels ...string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: named("ns")}
	ns.Labels = map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		ns.Labels[psLabel+labels[i]] = labels[i+1]
	}
	return ns
}

func privilegedPod(name string) *corev1.Pod {
	yes := true
	return &corev1.Pod{ObjectMeta: inNS(name), Spec: corev1.PodSpec{HostNetwork: true,
		Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: &yes}}}}}
}

// check returns the error and the warnings of one write.
func checkSecurity(objects fixed, a *Attributes) (error, []string) {
	ctx, w := request.WithWarnings(context.Background())
	err := Chain{PodSecurity(objects)}.Validate(ctx, a)
	return err, w.List()
}

func TestPodSecurity(t *testing.T) {
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	deployment := &appsv1.Deployment{ObjectMeta: inNS("d")}
	deployment.Spec.Template.Spec = privilegedPod("").Spec
	old := privilegedPod("p")
	labelled, debugged := old.DeepCopy(), old.DeepCopy()
	labelled.Labels = map[string]string{"a": "b"}
	debugged.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}}
	const what = `host namespaces (hostNetwork=true), privileged (container "c" must not set securityContext.privileged=true)`
	const refused = `pods "p" is forbidden: violates PodSecurity "baseline:latest": ` + what
	const warned = `would violate PodSecurity "baseline:latest": ` + what
	for _, c := range []struct {
		name  string
		ns    *corev1.Namespace
		a     *Attributes
		want  string
		warns []string
	}{
		{"no labels", namespaceWith(), write(Create, podResource, "", privilegedPod("p"), nil), "", nil},
		{"enforce", namespaceWith("enforce", "baseline"), write(Create, podResource, "", privilegedPod("p"), nil), refused, nil},
		{"enforce, good pod", namespaceWith("enforce", "baseline"), write(Create, podResource, "", &corev1.Pod{ObjectMeta: inNS("p")}, nil), "", nil},
		{"warn", namespaceWith("warn", "baseline"), write(Create, podResource, "", privilegedPod("p"), nil), "", []string{warned}},
		{"update of labels", namespaceWith("enforce", "baseline"), write(Update, podResource, "", labelled, old), "", nil},
		{"ephemeral containers", namespaceWith("enforce", "baseline"), write(Update, podResource, "ephemeralcontainers", debugged, old), refused, nil},
		{"status", namespaceWith("enforce", "baseline"), write(Update, podResource, "status", debugged, old), "", nil},
		{"deployment", namespaceWith("enforce", "baseline"), write(Create, deployments, "", deployment, nil), "", []string{warned}},
		{"unreadable label", namespaceWith("enforce", "x"), write(Create, podResource, "", privilegedPod("p"), nil), `violates PodSecurity "restricted:latest"`, nil},
	} {
		err, warns := checkSecurity(fixed{namespaceResource: {c.ns}}, c.a)
		wants(t, c.name, err, c.want)
		if diff := cmp.Diff(c.warns, warns); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestPodSecurityLabels(t *testing.T) {
	objects := fixed{podResource: {privilegedPod("b"), privilegedPod("a"), &corev1.Pod{ObjectMeta: inNS("good")}}}
	err, _ := checkSecurity(objects, write(Create, namespaceResource, "", namespaceWith("enforce", "x"), nil))
	if !apierrors.IsInvalid(err) {
		t.Errorf("unreadable label: %v", err)
	}
	err, warns := checkSecurity(objects, write(Update, namespaceResource, "", namespaceWith("enforce", "baseline"), namespaceWith()))
	want := []string{
		`existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest"`,
		`a (and 1 other pod): host namespaces, privileged`,
	}
	if diff := cmp.Diff(want, warns); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, warns = checkSecurity(objects, write(Update, namespaceResource, "", namespaceWith(), namespaceWith("enforce", "baseline"))); len(warns) > 0 {
		t.Errorf("looser, yet: %v", warns)
	}
}
