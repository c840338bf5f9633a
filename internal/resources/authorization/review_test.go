package authorization

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
)

func policy() authz.Union {
	a := rbac.New()
	a.Changed(rbac.ClusterRoles, meta.Key{Name: "r"}, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}},
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}},
	}})
	a.Changed(rbac.ClusterRoleBindings, meta.Key{Name: "b"}, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "ann"}}})
	return authz.Union{authz.Superuser{}, a}
}

func TestSubjectAccessReview(t *testing.T) {
	def := SubjectAccessReview(policy())
	pods := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "x"}
	for _, c := range []struct {
		spec authorizationv1.SubjectAccessReviewSpec
		want bool
	}{
		{authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods}, true},
		{authorizationv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: pods}, false},
		{authorizationv1.SubjectAccessReviewSpec{User: "bob", Groups: []string{"system:masters"}, ResourceAttributes: pods}, true},
		{authorizationv1.SubjectAccessReviewSpec{User: "ann", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"}}, true},
	} {
		s := &authorizationv1.SubjectAccessReview{Spec: c.spec}
		r := check.NewReport()
		def.Validate(r, s, nil)
		if err := def.Answer(context.Background(), s); err != nil || r.Failed() {
			t.Fatal(err, r.Errors())
		}
		if s.Status.Allowed != c.want || s.Status.Denied {
			t.Errorf("%+v: %+v", c.spec, s.Status)
		}
	}
}

func TestValidate(t *testing.T) {
	r := check.NewReport()
	SubjectAccessReview(nil).Validate(r, &authorizationv1.SubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, nil)
	LocalSubjectAccessReview(nil).Validate(r, &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "a"},
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "b",
			FieldSelector: &authorizationv1.FieldSelectorAttributes{}}}}, nil)
	var got []string
	for _, e := range r.Errors() {
		got = append(got, e.Field+": "+e.Detail)
	}
	want := []string{
		"spec.resourceAttributes: exactly one of nonResourceAttributes or resourceAttributes must be specified",
		"spec.user: at least one of user or group must be specified",
		"metadata: must be empty",
		"spec.resourceAttributes.fieldSelector.requirements: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
		"spec.resourceAttributes.namespace: must match metadata.namespace",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSelectors(t *testing.T) {
	i := info(&authorizationv1.ResourceAttributes{
		FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{
			{Key: "spec.nodeName", Operator: "In", Values: []string{"n,1"}}, {Key: "a", Operator: "Exists"}}},
		LabelSelector: &authorizationv1.LabelSelectorAttributes{Requirements: []metav1.LabelSelectorRequirement{
			{Key: "app", Operator: "In", Values: []string{"x"}}}},
	}, nil)
	if i.FieldSelector != `spec.nodeName=n\,1` || i.LabelSelector != "app in (x)" {
		t.Errorf("%q %q", i.FieldSelector, i.LabelSelector)
	}
}

func TestSelfReviews(t *testing.T) {
	ctx := request.WithUser(context.Background(), &request.User{Name: "ann"})
	s := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"}}}
	if err := SelfSubjectAccessReview(policy()).Answer(ctx, s); err != nil || !s.Status.Allowed {
		t.Errorf("%v %+v", err, s.Status)
	}
	l := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "x"}}
	if err := SelfSubjectRulesReview(policy()).Answer(ctx, l); err != nil {
		t.Fatal(err)
	}
	want := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}},
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}},
	}
	if diff := cmp.Diff(want, l.Status); diff != "" {
		t.Error(diff)
	}
	if err := SelfSubjectRulesReview(policy()).Answer(ctx, &authorizationv1.SelfSubjectRulesReview{}); err == nil {
		t.Error("no namespace, no error")
	}
}
