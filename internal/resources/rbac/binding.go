package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// RoleBinding is rbac.authorization.k8s.io/v1 RoleBinding.
var RoleBinding = &resource.Definition[*rbacv1.RoleBinding]{
	Name:     resource.Name{Group: rbacv1.GroupName, Version: "v1", Kind: "RoleBinding", Plural: "rolebindings"},
	NameRule: check.PathSegment,
	Upsert:   true,
	Default:  func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: func(r *check.Report, b, old *rbacv1.RoleBinding) {
		validateBinding(r, b.RoleRef, b.Subjects, true)
		if old != nil && b.RoleRef != old.RoleRef {
			r.At("roleRef").Invalid(b.RoleRef, "cannot change roleRef")
		}
	},
	Columns: bindingColumns(func(b *rbacv1.RoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
}

// ClusterRoleBinding is rbac.authorization.k8s.io/v1 ClusterRoleBinding.
var ClusterRoleBinding = &resource.Definition[*rbacv1.ClusterRoleBinding]{
	Name:     resource.Name{Group: rbacv1.GroupName, Version: "v1", Kind: "ClusterRoleBinding", Plural: "clusterrolebindings"},
	Scope:    resource.Cluster,
	NameRule: check.PathSegment,
	Upsert:   true,
	Default:  func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: func(r *check.Report, b, old *rbacv1.ClusterRoleBinding) {
		validateBinding(r, b.RoleRef, b.Subjects, false)
		if old != nil && b.RoleRef != old.RoleRef {
			r.At("roleRef").Invalid(b.RoleRef, "cannot change roleRef")
		}
	},
	Columns: bindingColumns(func(b *rbacv1.ClusterRoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
}

func bindingColumns[T meta.Object](parts func(T) (rbacv1.RoleRef, []rbacv1.Subject)) []resource.Column[T] {
	named := func(kind string) func(T) any {
		return func(b T) any {
			_, subjects := parts(b)
			return subjectNames(subjects, kind)
		}
	}
	return []resource.Column[T]{
		{Name: "Role", Description: "RoleRef contains information that points to the role being used", Value: func(b T) any {
			ref, _ := parts(b)
			return ref.Kind + "/" + ref.Name
		}},
		resource.Age[T](),
		{Name: "Users", Wide: true, Description: "Users in the binding", Value: named(rbacv1.UserKind)},
		{Name: "Groups", Wide: true, Description: "Groups in the binding", Value: named(rbacv1.GroupKind)},
		{Name: "ServiceAccounts", Wide: true, Description: "ServiceAccounts in the binding", Value: named(rbacv1.ServiceAccountKind)},
	}
}

func subjectNames(subjects []rbacv1.Subject, kind string) string {
	var names []string
	for i := range subjects {
		s := &subjects[i]
		switch {
		case s.Kind != kind:
		case kind == rbacv1.ServiceAccountKind:
			names = append(names, s.Namespace+"/"+s.Name)
		default:
			names = append(names, s.Name)
		}
	}
	return strings.Join(names, ", ")
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		s := &subjects[i]
		if s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func validateBinding(r *check.Report, ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) {
	at := r.At("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		at.At("apiGroup").NotSupported(ref.APIGroup, []string{rbacv1.GroupName})
	}
	switch {
	case ref.Kind == "ClusterRole", ref.Kind == "Role" && namespaced:
	case namespaced:
		at.At("kind").NotSupported(ref.Kind, []string{"Role", "ClusterRole"})
	default:
		at.At("kind").NotSupported(ref.Kind, []string{"ClusterRole"})
	}
	if ref.Name == "" {
		at.At("name").Required("")
	} else {
		for _, fault := range path.IsValidPathSegmentName(ref.Name) {
			at.At("name").Invalid(ref.Name, fault)
		}
	}
	for i := range subjects {
		validateSubject(r.At("subjects").Index(i), &subjects[i], namespaced)
	}
}

func validateSubject(r *check.Report, s *rbacv1.Subject, namespaced bool) {
	if s.Name == "" {
		r.At("name").Required("")
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			for _, fault := range apivalidation.ValidateServiceAccountName(s.Name, false) {
				r.At("name").Invalid(s.Name, fault)
			}
		}
		if s.APIGroup != "" {
			r.At("apiGroup").NotSupported(s.APIGroup, []string{""})
		}
		if !namespaced && s.Namespace == "" {
			r.At("namespace").Required("")
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		if s.APIGroup != rbacv1.GroupName {
			r.At("apiGroup").NotSupported(s.APIGroup, []string{rbacv1.GroupName})
		}
	default:
		r.At("kind").NotSupported(s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind})
	}
}
