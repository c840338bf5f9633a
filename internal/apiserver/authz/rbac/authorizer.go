// Package rbac authorizes by the four kinds of rbac.authorization.k8s.io. It
// reads roles and bindings as change notifications (Changed) and keeps an index
// from each subject to what its bindings allow, so that a question costs a few
// map look-ups however many bindings there are. It also holds the rules about
// rules: what covers what, escalation, aggregation, reconciliation. It writes
// nothing. https://kubernetes.io/docs/reference/access-authn-authz/rbac/
package rbac

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

// The resources whose changes an Authorizer wants to be told of.
var (
	Roles               = schema.GroupResource{Group: rbacv1.GroupName, Resource: "roles"}
	RoleBindings        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "rolebindings"}
	ClusterRoles        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterroles"}
	ClusterRoleBindings = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrolebindings"}
)

// Authorizer is the mode RBAC. The zero value is not ready; see New.
type Authorizer struct {
	mu       sync.RWMutex
	roles    map[meta.Key]*role    // namespace "" for cluster roles
	bindings map[meta.Key]*binding // namespace "" for cluster role bindings
	scopes   map[string]*scope     // by namespace, "" for the cluster
}

// role is what bindings point to; it is there even while the object is not,
// so that a role created after its bindings takes effect in them.
type role struct {
	key    meta.Key
	exists bool
	refs   int // bindings that point here
	rules  []rule
	source []rbacv1.PolicyRule
}

type binding struct {
	role     *role
	subjects []string // keys in users and groups of the scope
}

// scope is one namespace, or the cluster: the grants by "user or group" key.
type scope struct{ users, groups map[string][]*grant }

// grant is one subject of one binding.
type grant struct {
	binding *binding
	reason  string
}

// New returns an authorizer that knows no role: it allows nothing.
func New() *Authorizer {
	return &Authorizer{
		roles:    map[meta.Key]*role{},
		bindings: map[meta.Key]*binding{},
		scopes:   map[string]*scope{},
	}
}

// Changed tells the authorizer that the object of key is now obj; nil says
// that it is gone. Other resources than the four above are ignored.
func (a *Authorizer) Changed(gr schema.GroupResource, key meta.Key, obj meta.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch gr {
	case Roles, ClusterRoles:
		a.setRole(key, obj)
	case RoleBindings, ClusterRoleBindings:
		a.dropBinding(key)
		switch b := obj.(type) {
		case *rbacv1.RoleBinding:
			a.addBinding(key, "RoleBinding", b.RoleRef, b.Subjects)
		case *rbacv1.ClusterRoleBinding:
			a.addBinding(key, "ClusterRoleBinding", b.RoleRef, b.Subjects)
		}
	}
}

func (a *Authorizer) setRole(key meta.Key, obj meta.Object) {
	r := a.box(key)
	r.exists, r.rules, r.source = false, nil, nil
	switch o := obj.(type) {
	case *rbacv1.Role:
		r.exists, r.rules, r.source = true, compile(o.Rules), o.Rules
	case *rbacv1.ClusterRole:
		r.exists, r.rules, r.source = true, compile(o.Rules), o.Rules
	}
	a.sweep(r)
}

// box returns the role of key, an empty one if there is none.
func (a *Authorizer) box(key meta.Key) *role {
	r := a.roles[key]
	if r == nil {
		r = &role{key: key}
		a.roles[key] = r
	}
	return r
}

func (a *Authorizer) sweep(r *role) {
	if !r.exists && r.refs == 0 {
		delete(a.roles, r.key)
	}
}

func (a *Authorizer) addBinding(key meta.Key, kind string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	at := meta.Key{Name: ref.Name}
	if ref.Kind == "Role" {
		at.Namespace = key.Namespace
	}
	b := &binding{role: a.box(at)}
	b.role.refs++
	a.bindings[key] = b
	sc := a.scopes[key.Namespace]
	if sc == nil {
		sc = &scope{users: map[string][]*grant{}, groups: map[string][]*grant{}}
		a.scopes[key.Namespace] = sc
	}
	name := key.Name
	if key.Namespace != "" {
		name += "/" + key.Namespace
	}
	for i := range subjects {
		by, subject, described := locate(&subjects[i], key.Namespace)
		if subject == "" {
			continue
		}
		g := &grant{binding: b, reason: fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s",
			kind, name, ref.Kind, ref.Name, described)}
		index := sc.users
		if by == rbacv1.GroupKind {
			index = sc.groups
		}
		index[subject] = append(index[subject], g)
		b.subjects = append(b.subjects, subject)
	}
}

// locate returns under which name a subject is known to authentication, and as
// user or group; an empty name if it can be nobody.
func locate(s *rbacv1.Subject, namespace string) (kind, name, described string) {
	switch s.Kind {
	case rbacv1.UserKind, rbacv1.GroupKind:
		return s.Kind, s.Name, fmt.Sprintf("%s %q", s.Kind, s.Name)
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		if namespace == "" || s.Name == "" {
			return "", "", ""
		}
		return rbacv1.UserKind, "system:serviceaccount:" + namespace + ":" + s.Name,
			fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+namespace)
	}
	return "", "", ""
}

func (a *Authorizer) dropBinding(key meta.Key) {
	b := a.bindings[key]
	if b == nil {
		return
	}
	delete(a.bindings, key)
	sc := a.scopes[key.Namespace]
	for _, index := range []map[string][]*grant{sc.users, sc.groups} {
		for _, s := range b.subjects {
			rest := slices.DeleteFunc(index[s], func(g *grant) bool { return g.binding == b })
			if len(rest) == 0 {
				delete(index, s)
			} else {
				index[s] = rest
			}
		}
	}
	if len(sc.users)+len(sc.groups) == 0 {
		delete(a.scopes, key.Namespace)
	}
	b.role.refs--
	a.sweep(b.role)
}

// Authorize allows what a binding of the user or of one of its groups allows,
// in the cluster first and then in the namespace; it never denies.
func (a *Authorizer) Authorize(_ context.Context, u *request.User, info *request.Info) (authz.Decision, string, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	g := a.scopes[""].find(u, info)
	if g == nil && info.Namespace != "" {
		g = a.scopes[info.Namespace].find(u, info)
	}
	if g == nil {
		return authz.NoOpinion, a.missingRoles(u, info.Namespace), nil
	}
	return authz.Allow, g.reason, nil
}

func (s *scope) find(u *request.User, info *request.Info) *grant {
	if s == nil {
		return nil
	}
	if g := firstAllowing(s.users[u.Name], info); g != nil {
		return g
	}
	for _, name := range u.Groups {
		if g := firstAllowing(s.groups[name], info); g != nil {
			return g
		}
	}
	return nil
}

func firstAllowing(grants []*grant, info *request.Info) *grant {
	for _, g := range grants {
		rules := g.binding.role.rules
		for i := range rules {
			if rules[i].allows(info) {
				return g
			}
		}
	}
	return nil
}

// each calls f for every role that binds u in the cluster and in namespace.
func (a *Authorizer) each(u *request.User, namespace string, f func(*role)) {
	visit := func(s *scope) {
		if s == nil {
			return
		}
		for _, g := range s.users[u.Name] {
			f(g.binding.role)
		}
		for _, name := range u.Groups {
			for _, g := range s.groups[name] {
				f(g.binding.role)
			}
		}
	}
	visit(a.scopes[""])
	if namespace != "" {
		visit(a.scopes[namespace])
	}
}

// missingRoles explains a refusal by bindings whose role does not exist.
func (a *Authorizer) missingRoles(u *request.User, namespace string) string {
	var missing []string
	a.each(u, namespace, func(r *role) {
		if r.exists {
			return
		}
		if text := notFound(r.key).Error(); !slices.Contains(missing, text) {
			missing = append(missing, text)
		}
	})
	switch len(missing) {
	case 0:
		return ""
	case 1:
		return "RBAC: " + missing[0]
	default:
		return "RBAC: [" + strings.Join(missing, ", ") + "]"
	}
}

func notFound(key meta.Key) error {
	kind := "role"
	if key.Namespace == "" {
		kind = "clusterrole"
	}
	return apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: kind}, key.Name)
}

// RulesFor returns all rules that hold for u in namespace, those of the whole
// cluster included. The error lists roles that are bound but do not exist; the
// rules are those of the others.
func (a *Authorizer) RulesFor(u *request.User, namespace string) ([]rbacv1.PolicyRule, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var rules []rbacv1.PolicyRule
	seen := map[*role]bool{}
	a.each(u, namespace, func(r *role) {
		if !seen[r] {
			seen[r] = true
			rules = append(rules, r.source...)
		}
	})
	if text := a.missingRoles(u, namespace); text != "" {
		return rules, fmt.Errorf("%s", strings.TrimPrefix(text, "RBAC: "))
	}
	return rules, nil
}

// RoleRules returns the rules of the role that a binding in namespace ("" for a
// cluster role binding) refers to; a 404 if there is none.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	key := meta.Key{Name: ref.Name}
	if ref.Kind == "Role" {
		key.Namespace = namespace
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if r := a.roles[key]; r != nil && r.exists {
		return r.source, nil
	}
	return nil, notFound(key)
}

// Rules lists what the bindings of u allow in namespace.
func (a *Authorizer) Rules(u *request.User, namespace string) (authz.Rules, error) {
	policies, err := a.RulesFor(u, namespace)
	out := authz.Rules{Incomplete: err != nil}
	for i := range policies {
		p := &policies[i]
		if len(p.NonResourceURLs) > 0 {
			out.NonResource = append(out.NonResource, authorizationv1.NonResourceRule{Verbs: p.Verbs, NonResourceURLs: p.NonResourceURLs})
			continue
		}
		out.Resource = append(out.Resource, authorizationv1.ResourceRule{
			Verbs: p.Verbs, APIGroups: p.APIGroups, Resources: p.Resources, ResourceNames: p.ResourceNames})
	}
	return out, err
}
