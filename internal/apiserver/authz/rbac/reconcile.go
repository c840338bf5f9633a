package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Step is what reconciliation must do to one object.
type Step int

const (
	Keep Step = iota
	Create
	Update
	// Recreate means delete and create: a binding's roleRef cannot change.
	Recreate
)

// protected reports whether people have taken the object out of reconciliation.
func protected(o metav1.Object) bool {
	return o.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false"
}

// object is a pointer to one of the four kinds.
type object[T any] interface {
	*T
	metav1.Object
	DeepCopy() *T
}

// reconcile returns what to write so that have, nil if there is none, has the
// labels and annotations of want and what grow adds; grow reports whether that
// was anything.
func reconcile[T any, P object[T]](want, have P, grow func(P) bool) (P, Step) {
	if have == nil {
		return want, Create
	}
	if protected(have) {
		return have, Keep
	}
	out := P(have.DeepCopy())
	changed := addMeta(out, want)
	if grow(out) || changed {
		return out, Update
	}
	return have, Keep
}

// ReconcileClusterRole returns the cluster role to write so that have (nil if
// there is none) allows at least what want does, and carries its labels and
// annotations. Rules that were added by people stay.
func ReconcileClusterRole(want, have *rbacv1.ClusterRole) (*rbacv1.ClusterRole, Step) {
	return reconcile(want, have, func(out *rbacv1.ClusterRole) bool {
		if want.AggregationRule != nil {
			return addSelectors(out, want.AggregationRule)
		}
		return addRules(&out.Rules, want.Rules)
	})
}

// ReconcileRole does the same for a role.
func ReconcileRole(want, have *rbacv1.Role) (*rbacv1.Role, Step) {
	return reconcile(want, have, func(out *rbacv1.Role) bool { return addRules(&out.Rules, want.Rules) })
}

// ReconcileClusterRoleBinding returns the binding to write so that have binds
// at least the subjects of want to want's role.
func ReconcileClusterRoleBinding(want, have *rbacv1.ClusterRoleBinding) (*rbacv1.ClusterRoleBinding, Step) {
	return reconcileBinding(want, have, func(b *rbacv1.ClusterRoleBinding) (rbacv1.RoleRef, *[]rbacv1.Subject) {
		return b.RoleRef, &b.Subjects
	})
}

// ReconcileRoleBinding does the same in a namespace.
func ReconcileRoleBinding(want, have *rbacv1.RoleBinding) (*rbacv1.RoleBinding, Step) {
	return reconcileBinding(want, have, func(b *rbacv1.RoleBinding) (rbacv1.RoleRef, *[]rbacv1.Subject) {
		return b.RoleRef, &b.Subjects
	})
}

func reconcileBinding[T any, P object[T]](want, have P, parts func(P) (rbacv1.RoleRef, *[]rbacv1.Subject)) (P, Step) {
	role, wanted := parts(want)
	if have != nil && !protected(have) {
		if was, subjects := parts(have); was != role {
			out := P(want.DeepCopy())
			addMeta(out, have)
			_, all := parts(out)
			addSubjects(all, *subjects)
			return out, Recreate
		}
	}
	return reconcile(want, have, func(out P) bool {
		_, subjects := parts(out)
		return addSubjects(subjects, *wanted)
	})
}

// addMeta gives o the labels and annotations of want; values of o win, but for
// those that are only in want.
func addMeta(o, want metav1.Object) bool {
	labels, a := union(o.GetLabels(), want.GetLabels())
	annotations, b := union(o.GetAnnotations(), want.GetAnnotations())
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
	return a || b
}

func union(have, want map[string]string) (map[string]string, bool) {
	changed := false
	for k, v := range want {
		if _, ok := have[k]; ok {
			continue
		}
		if have == nil {
			have = map[string]string{}
		}
		have[k] = v
		changed = true
	}
	return have, changed
}

func addRules(rules *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) bool {
	ok, missing := Covers(*rules, want)
	*rules = append(*rules, compact(missing)...)
	return !ok
}

func addSelectors(r *rbacv1.ClusterRole, want *rbacv1.AggregationRule) bool {
	changed := false
	if r.AggregationRule == nil {
		r.AggregationRule, changed = &rbacv1.AggregationRule{}, true
	}
	have := &r.AggregationRule.ClusterRoleSelectors
	for _, s := range want.ClusterRoleSelectors {
		if !slices.ContainsFunc(*have, func(h metav1.LabelSelector) bool { return equality.Semantic.DeepEqual(h, s) }) {
			*have, changed = append(*have, s), true
		}
	}
	return changed
}

func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) bool {
	changed := false
	for _, s := range want {
		if !slices.Contains(*have, s) {
			*have, changed = append(*have, s), true
		}
	}
	return changed
}
