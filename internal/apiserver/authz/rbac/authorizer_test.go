package rbac

import (
	"context"
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

func rules(verbs, groups, resources string, names ...string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{Verbs: strings.Fields(verbs), APIGroups: strings.Split(groups, ","), Resources: strings.Fields(resources), ResourceNames: names}}
}

func urls(verbs string, paths ...string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{Verbs: strings.Fields(verbs), NonResourceURLs: paths}}
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func user(name string) rbacv1.Subject  { return rbacv1.Subject{Kind: "User", Name: name} }
func group(name string) rbacv1.Subject { return rbacv1.Subject{Kind: "Group", Name: name} }

func load(a *Authorizer, objs ...meta.Object) {
	for _, o := range objs {
		gr := Roles
		switch o.(type) {
		case *rbacv1.ClusterRole:
			gr = ClusterRoles
		case *rbacv1.RoleBinding:
			gr = RoleBindings
		case *rbacv1.ClusterRoleBinding:
			gr = ClusterRoleBindings
		}
		a.Changed(gr, meta.KeyOf(o), o)
	}
}

func clusterRole(name string, r []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: named("", name), Rules: r}
}

func clusterBinding(name, role string, s ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: named("", name), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: s}
}

func bindingIn(namespace, name, kind, role string, s ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: named(namespace, name), RoleRef: rbacv1.RoleRef{Kind: kind, Name: role}, Subjects: s}
}

// ask parses "verb group/resource/subresource namespace name" with "-" for
// what is empty, or "verb /path".
func ask(s string) *request.Info {
	f := strings.Fields(s)
	if len(f) == 2 {
		return &request.Info{Verb: f[0], Path: f[1]}
	}
	for i := range f {
		if f[i] == "-" {
			f[i] = ""
		}
	}
	r := strings.SplitN(f[1], "/", 3)
	info := &request.Info{IsResource: true, Verb: f[0], Group: r[0], Resource: r[1], Namespace: f[2], Name: f[3]}
	if len(r) == 3 {
		info.Subresource = r[2]
	}
	return info
}

func TestAuthorize(t *testing.T) {
	a := New()
	load(a,
		// Bindings first: the roles take effect when they come.
		clusterBinding("readers", "read-nodes", user("ann"), group("staff")),
		clusterBinding("metrics", "metrics", user("ann")),
		clusterBinding("dangling", "gone", user("dan")),
		bindingIn("dev", "dev", "Role", "pods", user("bob"), rbacv1.Subject{Kind: "ServiceAccount", Name: "robot"}),
		bindingIn("dev", "named", "ClusterRole", "one-secret", user("bob")),
		bindingIn("prod", "pods", "Role", "pods", user("bob")), // the role is in dev only
		clusterBinding("root", "all", user("root")),
		bindingIn("dev", "scale", "ClusterRole", "scale", user("sue")),
		clusterRole("read-nodes", rules("get list", "", "nodes")),
		clusterRole("metrics", urls("get", "/metrics", "/debug/*")),
		clusterRole("one-secret", rules("get", "", "secrets", "token")),
		clusterRole("all", append(rules("*", "*", "*"), urls("*", "*")...)),
		clusterRole("scale", rules("update", "*", "*/scale")),
		&rbacv1.Role{ObjectMeta: named("dev", "pods"), Rules: rules("get list", "", "pods pods/log")},
	)
	ann := &request.User{Name: "ann"}
	bob := &request.User{Name: "bob"}
	root := &request.User{Name: "root"}
	sue := &request.User{Name: "sue"}
	staff := &request.User{Name: "x", Groups: []string{"other", "staff"}}
	robot := &request.User{Name: "system:serviceaccount:dev:robot"}
	for _, c := range []struct {
		user   *request.User
		ask    string
		allow  bool
		reason string
	}{
		{ann, "get /nodes - n1", true, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "read-nodes" to User "ann"`},
		{staff, "list /nodes - -", true, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "read-nodes" to Group "staff"`},
		{ann, "delete /nodes - n1", false, ""},
		{ann, "get /nodes/status - n1", false, ""},
		{ann, "get apps/nodes - n1", false, ""},
		{ann, "get /metrics", true, `RBAC: allowed by ClusterRoleBinding "metrics" of ClusterRole "metrics" to User "ann"`},
		{ann, "get /metrics/slis", false, ""},
		{ann, "get /debug/pprof", true, `RBAC: allowed by ClusterRoleBinding "metrics" of ClusterRole "metrics" to User "ann"`},
		{ann, "post /metrics", false, ""},
		{bob, "get /pods dev p", true, `RBAC: allowed by RoleBinding "dev/dev" of Role "pods" to User "bob"`},
		{bob, "get /pods/log dev p", true, `RBAC: allowed by RoleBinding "dev/dev" of Role "pods" to User "bob"`},
		{bob, "get /pods/exec dev p", false, ""},
		{bob, "list /pods - -", false, ""},
		{bob, "get /pods prod p", false, `RBAC: role.rbac.authorization.k8s.io "pods" not found`},
		{robot, "get /pods dev p", true, `RBAC: allowed by RoleBinding "dev/dev" of Role "pods" to ServiceAccount "robot/dev"`},
		{bob, "get /secrets dev token", true, `RBAC: allowed by RoleBinding "named/dev" of ClusterRole "one-secret" to User "bob"`},
		{bob, "get /secrets dev other", false, ""},
		{bob, "list /secrets dev -", false, ""},
		{root, "delete any/thing ns n", true, `RBAC: allowed by ClusterRoleBinding "root" of ClusterRole "all" to User "root"`},
		{root, "put /x", true, `RBAC: allowed by ClusterRoleBinding "root" of ClusterRole "all" to User "root"`},
		{sue, "update apps/deployments/scale dev d", true, `RBAC: allowed by RoleBinding "scale/dev" of ClusterRole "scale" to User "sue"`},
		{sue, "update apps/deployments dev d", false, ""},
		{&request.User{Name: "dan"}, "get /pods dev p", false, `RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},
		{&request.User{}, "get /pods dev p", false, ""},
	} {
		d, reason, err := a.Authorize(context.Background(), c.user, ask(c.ask))
		if (d == authz.Allow) != c.allow || reason != c.reason || err != nil {
			t.Errorf("%s: %s: %v %q %v", c.user.Name, c.ask, d, reason, err)
		}
	}
}

func TestChanges(t *testing.T) {
	a := New()
	ann := &request.User{Name: "ann"}
	can := func(want bool, when string) {
		t.Helper()
		if d, _, _ := a.Authorize(context.Background(), ann, ask("get /nodes - n")); (d == authz.Allow) != want {
			t.Errorf("%s: %v", when, d)
		}
	}
	role, bound := clusterRole("r", rules("get", "", "nodes")), clusterBinding("b", "r", user("ann"), user("ann"))
	load(a, role)
	can(false, "unbound")
	load(a, bound)
	can(true, "bound")
	load(a, clusterRole("r", nil))
	can(false, "role emptied")
	load(a, role)
	can(true, "role filled")
	load(a, clusterBinding("b", "r", user("bob")))
	can(false, "subject gone")
	load(a, bound)
	a.Changed(ClusterRoles, meta.KeyOf(role), nil)
	can(false, "role deleted")
	load(a, role)
	a.Changed(ClusterRoleBindings, meta.KeyOf(bound), nil)
	can(false, "binding deleted")
	a.Changed(ClusterRoles, meta.KeyOf(role), nil)
	if len(a.roles)+len(a.bindings)+len(a.scopes) != 0 {
		t.Errorf("left behind: %v %v %v", a.roles, a.bindings, a.scopes)
	}
}

func TestCheckEscalation(t *testing.T) {
	a := New()
	load(a,
		clusterRole("reader", rules("get list", "", "pods")),
		clusterBinding("b", "reader", user("bob")))
	bob := &request.User{Name: "bob", Groups: []string{"system:authenticated"}}
	if err := a.CheckEscalation(bob, "ns", rules("list", "", "pods", "one")); err != nil {
		t.Error(err)
	}
	err := a.CheckEscalation(bob, "ns", append(rules("get delete update", "", "pods"), urls("get", "/metrics")...))
	want := `user "bob" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["pods"], Verbs:["delete", "update"]}
{NonResourceURLs:["/metrics"], Verbs:["get"]}`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestForbidden(t *testing.T) {
	u := &request.User{Name: "x"}
	for _, c := range []struct{ ask, reason, want string }{
		{"list /pods default -", "", `pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default"`},
		{"get apps/deployments/scale ns d", "why", `deployments.apps "d" is forbidden: User "x" cannot get resource "deployments/scale" in API group "apps" in the namespace "ns": why`},
		{"list /nodes - -", "", `nodes is forbidden: User "x" cannot list resource "nodes" in API group "" at the cluster scope`},
		{"get /metrics", "", `forbidden: User "x" cannot get path "/metrics"`},
	} {
		if got := authz.Forbidden(u, ask(c.ask), c.reason).Error(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

var (
	genVerb     = rapid.SliceOfN(rapid.SampledFrom([]string{"get", "list", "*"}), 0, 2)
	genGroup    = rapid.SliceOfN(rapid.SampledFrom([]string{"", "apps", "*"}), 0, 2)
	genResource = rapid.SliceOfN(rapid.SampledFrom([]string{"pods", "pods/log", "*/log", "nodes", "*"}), 0, 2)
	genName     = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 0, 2)
	genURL      = rapid.SliceOfN(rapid.SampledFrom([]string{"/a", "/a/*", "/a/b", "/a*", "*"}), 0, 2)
)

func genRules(n int) *rapid.Generator[[]rbacv1.PolicyRule] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) rbacv1.PolicyRule {
		r := rbacv1.PolicyRule{Verbs: genVerb.Draw(t, "verbs")}
		if rapid.Bool().Draw(t, "url") {
			r.NonResourceURLs = genURL.Draw(t, "urls")
			return r
		}
		r.APIGroups, r.Resources, r.ResourceNames = genGroup.Draw(t, "groups"), genResource.Draw(t, "resources"), genName.Draw(t, "names")
		return r
	}), 0, n)
}

var everyRequest = func() (all []*request.Info) {
	for _, verb := range []string{"get", "list", "other"} {
		for _, p := range []string{"/", "/a", "/a/", "/a/b", "/a/b/c", "/ab"} {
			all = append(all, &request.Info{Verb: verb, Path: p})
		}
		for _, group := range []string{"", "apps", "x"} {
			for _, resource := range []string{"pods", "nodes", "x"} {
				for _, sub := range []string{"", "log", "x"} {
					for _, name := range []string{"", "a", "b", "c"} {
						all = append(all, &request.Info{IsResource: true, Verb: verb, Group: group, Resource: resource, Subresource: sub, Name: name})
					}
				}
			}
		}
	}
	return all
}()

func allowed(rules []rule, info *request.Info) bool {
	for i := range rules {
		if rules[i].allows(info) {
			return true
		}
	}
	return false
}

// What covers allows: if one set of rules covers another, there is no request
// that the other allows and the first does not. And rules cover themselves.
func TestCoversIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := genRules(3).Draw(t, "have"), genRules(2).Draw(t, "want")
		if ok, missing := Covers(want, want); !ok {
			t.Fatalf("do not cover themselves: %v", missing)
		}
		ok, missing := Covers(have, want)
		strong, weak := compile(append(have, missing...)), compile(want)
		for _, info := range everyRequest {
			if allowed(weak, info) && !allowed(strong, info) {
				t.Fatalf("covered %v, missing %v, yet %+v", ok, missing, info)
			}
		}
	})
}

func benchmark(b *testing.B, subject func(i int) rbacv1.Subject, u *request.User, info *request.Info, want authz.Decision) {
	a := New()
	for i := range 1000 {
		name := fmt.Sprint("r", i)
		load(a, clusterRole(name, rules("get list watch create update patch delete", "apps", "deployments replicasets daemonsets statefulsets")),
			clusterBinding(name, name, subject(i)))
	}
	load(a, clusterRole("pods", rules("get", "", "pods")), clusterBinding("last", "pods", user("u999")))
	b.ReportAllocs()
	for b.Loop() {
		if d, _, _ := a.Authorize(context.Background(), u, info); d != want {
			b.Fatal(d)
		}
	}
}

func each(i int) rbacv1.Subject { return user(fmt.Sprint("u", i)) }
func all(int) rbacv1.Subject    { return group("system:authenticated") }

func BenchmarkAuthorizeOneOfThousand(b *testing.B) {
	benchmark(b, each, &request.User{Name: "u999", Groups: []string{"g", "system:authenticated"}}, ask("get /pods ns p"), authz.Allow)
}

// All thousand bindings are the asker's, and none helps.
func BenchmarkAuthorizeDeniedByThousand(b *testing.B) {
	benchmark(b, all, &request.User{Name: "x", Groups: []string{"system:authenticated"}}, ask("get /pods ns p"), authz.NoOpinion)
}
