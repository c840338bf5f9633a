package controllers

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/resources/certificates"
	"skiff.dev/skiff/internal/testing/controltest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// deps are complete but for what connects them.
func deps() Deps {
	d := Default()
	d.Client = func(string) *client.Client { return client.New(nil) }
	d.Aggregate = rbac.Aggregate
	d.NodeIPAM.Cluster = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	d.Signer = &pki.Authority{}
	return d
}

func list(t *testing.T, d Deps) []Controller {
	t.Helper()
	all, err := All(d)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// docs/controllers.md is made from the declarations.
func TestDocumentation(t *testing.T) {
	const file = "../../docs/controllers.md"
	var b strings.Builder
	b.WriteString("# Controllers\n\nMade from the declarations by `go test ./internal/controllers -update`.\n\n" +
		"Each runs as a service account of kube-system (named here without the ending\n-controller that most have) and may do this and no more.\n")
	for _, c := range list(t, deps()) {
		fmt.Fprintf(&b, "\n## %s\n\nRuns as `%s`.\n\n| resource | verbs |\n|---|---|\n", c.Name(), c.Account)
		for _, r := range merged(c.Rules()) {
			name := r.Resources[0]
			if r.APIGroups[0] != "" {
				name += " (" + r.APIGroups[0] + ")"
			}
			fmt.Fprintf(&b, "| %s | %s |\n", name, strings.Join(r.Verbs, ", "))
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), b.String()); diff != "" {
		t.Errorf("docs/controllers.md is out of date, run the test with -update:\n%s", diff)
	}
}

// merged joins the verbs on each resource into one rule, in order.
func merged(rules []rbacv1.PolicyRule) (out []rbacv1.PolicyRule) {
	at := map[string]int{}
	for _, r := range rules {
		key := r.APIGroups[0] + "/" + r.Resources[0]
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, rbacv1.PolicyRule{APIGroups: r.APIGroups, Resources: r.Resources})
		}
		out[i].Verbs = append(out[i].Verbs, r.Verbs...)
	}
	for i := range out {
		slices.Sort(out[i].Verbs)
		out[i].Verbs = slices.Compact(out[i].Verbs)
	}
	slices.SortFunc(out, func(a, b rbacv1.PolicyRule) int {
		return strings.Compare(a.APIGroups[0]+"/"+a.Resources[0], b.APIGroups[0]+"/"+b.Resources[0])
	})
	return out
}

func TestNamesAreUnique(t *testing.T) {
	names := Names(list(t, deps()))
	if got := slices.Compact(slices.Clone(names)); len(got) != len(names) || !slices.IsSorted(names) {
		t.Errorf("names %q", names)
	}
}

// guard lets each account do what its role says and remembers what it refused.
type guard struct {
	rbac    *rbac.Authorizer
	mu      sync.Mutex
	refused map[string]bool
}

func (g *guard) Authorize(ctx context.Context, u *request.User, i *request.Info) (authz.Decision, string, error) {
	d, reason, err := g.rbac.Authorize(ctx, u, i)
	if d != authz.Allow {
		g.mu.Lock()
		g.refused[fmt.Sprintf("%s: %s %s/%s", u.Name, i.Verb, i.Resource, i.Subresource)] = true
		g.mu.Unlock()
	}
	return d, reason, err
}

// cluster runs all controllers, each with just the rights it has declared.
func cluster(t *testing.T) (*controltest.World, *guard) {
	w := controltest.New(t, resource.Of(certificates.SigningRequest))
	g := &guard{rbac: rbac.New(), refused: map[string]bool{}}
	d := deps()
	d.RootCA, d.Resources = []byte("pem"), w.Resources
	d.Events = w.Events
	d.Client = func(account string) *client.Client { return w.As("system:"+account, g) }
	for _, c := range list(t, d) {
		key := meta.Key{Name: c.Name()}
		g.rbac.Changed(rbac.ClusterRoles, key, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: key.Name}, Rules: c.Rules()})
		g.rbac.Changed(rbac.ClusterRoleBindings, key, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: key.Name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: key.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "system:" + c.Account}},
		})
		w.Run(c.Controller)
	}
	return w, g
}

func web(replicas int32) *appsv1.Deployment {
	l := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}},
			},
		},
	}
}

func newNode(w *controltest.World, name string) {
	n := controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	controltest.Update(w, n, func(n *corev1.Node) {
		now := metav1.Now()
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}
	})
}

// A life of a small cluster, in which every controller has something to do,
// under no more rights than were declared.
func TestDeclaredRightsSuffice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g := cluster(t)
		defer w.Close()
		w.Run(w.Nodes(2))
		newNode(w, "node-0")
		newNode(w, "node-1")
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
		controltest.Create(w, &rbacv1.ClusterRole{
			ObjectMeta:      metav1.ObjectMeta{Name: "all"},
			AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "all"}}}},
		})
		controltest.Create(w, &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "part", Labels: map[string]string{"to": "all"}},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}},
		})
		controltest.Create(w, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef", Namespace: "kube-system"}, Type: "bootstrap.kubernetes.io/token",
			Data: map[string][]byte{
				"expiration": []byte(time.Now().Add(time.Minute).UTC().Format(time.RFC3339)),
				"token-id":   []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte("true"),
			},
		})
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-public"}})
		controltest.Create(w, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "cluster-info", Namespace: "kube-public"}, Data: map[string]string{"kubeconfig": "apiVersion: v1"},
		})
		controltest.Create(w, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}},
		})
		d := controltest.Create(w, web(6))
		w.Settle()
		if got := controltest.Get[*appsv1.Deployment](w, "shop", "web").Status; got.AvailableReplicas != 6 {
			t.Fatalf("status %+v", got)
		}
		if got := controltest.Get[*corev1.ConfigMap](w, "kube-public", "cluster-info").Data; got["jws-kubeconfig-abcdef"] == "" {
			t.Errorf("not signed: %v", got)
		}
		controltest.Update(w, d, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "web:2" })
		w.Settle()
		if got := controltest.Get[*appsv1.Deployment](w, "shop", "web").Status; got.UpdatedReplicas != 6 || got.Replicas != 6 || got.AvailableReplicas != 6 {
			t.Fatalf("status after the rollout %+v", got)
		}
		stray := controltest.List[*corev1.Pod](w, "shop")[0]
		controltest.Update(w, stray, func(p *corev1.Pod) { p.Labels = nil })
		controltest.Delete[*corev1.Node](w, "", "node-1", "")
		time.Sleep(2 * time.Minute) // its pods are lost, and the other falls silent
		w.Settle()
		controltest.Delete[*appsv1.Deployment](w, "shop", "web", metav1.DeletePropagationForeground)
		controltest.Delete[*corev1.Namespace](w, "", "shop", "")
		time.Sleep(time.Hour)
		w.Settle()
		for _, ns := range controltest.List[*corev1.Namespace](w, "") {
			if ns.Name == "shop" {
				t.Errorf("the namespace is still there: %+v", ns.Status)
			}
		}
		for what := range g.refused {
			t.Errorf("refused: %s", what)
		}
	})
}
