// Package authorization defines the resources of the API group
// authorization.k8s.io. All are virtual: a create is a question to the
// authorizer, and nothing is stored.
package authorization

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

func name(kind, plural string) resource.Name {
	return resource.Name{Group: authorizationv1.GroupName, Version: "v1", Kind: kind, Plural: plural}
}

// SubjectAccessReview asks whether somebody may do something.
// https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/
func SubjectAccessReview(a authz.Authorizer) *resource.Definition[*authorizationv1.SubjectAccessReview] {
	return &resource.Definition[*authorizationv1.SubjectAccessReview]{
		Name:  name("SubjectAccessReview", "subjectaccessreviews"),
		Scope: resource.Cluster,
		Validate: func(r *check.Report, s, _ *authorizationv1.SubjectAccessReview) {
			validateReview(r.At("spec"), &s.Spec)
			validateNoMeta(r, &s.ObjectMeta)
		},
		Answer: func(ctx context.Context, s *authorizationv1.SubjectAccessReview) error {
			s.Status = ask(ctx, a, subject(&s.Spec), s.Spec.ResourceAttributes, s.Spec.NonResourceAttributes)
			return nil
		},
	}
}

// LocalSubjectAccessReview asks the same about one namespace, so that the right
// to ask can be given for that namespace only.
func LocalSubjectAccessReview(a authz.Authorizer) *resource.Definition[*authorizationv1.LocalSubjectAccessReview] {
	return &resource.Definition[*authorizationv1.LocalSubjectAccessReview]{
		Name: name("LocalSubjectAccessReview", "localsubjectaccessreviews"),
		Validate: func(r *check.Report, s, _ *authorizationv1.LocalSubjectAccessReview) {
			validateReview(r.At("spec"), &s.Spec)
			meta := s.ObjectMeta
			meta.Namespace = ""
			validateNoMeta(r, &meta)
			if at := s.Spec.ResourceAttributes; at != nil && at.Namespace != s.Namespace {
				r.At("spec", "resourceAttributes", "namespace").Invalid(at.Namespace, "must match metadata.namespace")
			}
			if at := s.Spec.NonResourceAttributes; at != nil {
				r.At("spec", "nonResourceAttributes").Invalid(at, "disallowed on this kind of request")
			}
		},
		Answer: func(ctx context.Context, s *authorizationv1.LocalSubjectAccessReview) error {
			s.Status = ask(ctx, a, subject(&s.Spec), s.Spec.ResourceAttributes, s.Spec.NonResourceAttributes)
			return nil
		},
	}
}

// SelfSubjectAccessReview asks whether the asker may do something.
func SelfSubjectAccessReview(a authz.Authorizer) *resource.Definition[*authorizationv1.SelfSubjectAccessReview] {
	return &resource.Definition[*authorizationv1.SelfSubjectAccessReview]{
		Name:  name("SelfSubjectAccessReview", "selfsubjectaccessreviews"),
		Scope: resource.Cluster,
		Validate: func(r *check.Report, s, _ *authorizationv1.SelfSubjectAccessReview) {
			validateAttributes(r.At("spec"), s.Spec.ResourceAttributes, s.Spec.NonResourceAttributes)
			validateNoMeta(r, &s.ObjectMeta)
		},
		Answer: func(ctx context.Context, s *authorizationv1.SelfSubjectAccessReview) error {
			user := request.UserFrom(ctx)
			if user == nil {
				return apierrors.NewBadRequest("no user present on request")
			}
			s.Status = ask(ctx, a, user, s.Spec.ResourceAttributes, s.Spec.NonResourceAttributes)
			return nil
		},
	}
}

// SelfSubjectRulesReview lists what the asker may do in a namespace: kubectl
// auth can-i --list.
func SelfSubjectRulesReview(rules authz.RuleResolver) *resource.Definition[*authorizationv1.SelfSubjectRulesReview] {
	return &resource.Definition[*authorizationv1.SelfSubjectRulesReview]{
		Name:  name("SelfSubjectRulesReview", "selfsubjectrulesreviews"),
		Scope: resource.Cluster,
		Answer: func(ctx context.Context, s *authorizationv1.SelfSubjectRulesReview) error {
			user := request.UserFrom(ctx)
			if user == nil {
				return apierrors.NewBadRequest("no user present on request")
			}
			if s.Spec.Namespace == "" {
				return apierrors.NewBadRequest("no namespace on request")
			}
			found, err := rules.Rules(user, s.Spec.Namespace)
			s.Status = authorizationv1.SubjectRulesReviewStatus{
				// The API has both lists as required.
				ResourceRules:    append([]authorizationv1.ResourceRule{}, found.Resource...),
				NonResourceRules: append([]authorizationv1.NonResourceRule{}, found.NonResource...),
				Incomplete:       found.Incomplete,
			}
			if err != nil {
				s.Status.EvaluationError = err.Error()
			}
			return nil
		},
	}
}

func subject(s *authorizationv1.SubjectAccessReviewSpec) *request.User {
	u := &request.User{Name: s.User, UID: s.UID, Groups: s.Groups}
	for key, values := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = values
	}
	return u
}

func ask(ctx context.Context, a authz.Authorizer, user *request.User, res *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	d, reason, err := a.Authorize(ctx, user, info(res, other))
	status := authorizationv1.SubjectAccessReviewStatus{Allowed: d == authz.Allow, Denied: d == authz.Deny, Reason: reason}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func info(res *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) *request.Info {
	if res == nil {
		return &request.Info{Verb: other.Verb, Path: other.Path}
	}
	i := &request.Info{
		IsResource: true, Verb: res.Verb, Group: res.Group, Version: res.Version, Resource: res.Resource,
		Subresource: res.Subresource, Namespace: res.Namespace, Name: res.Name,
	}
	if s := res.FieldSelector; s != nil {
		i.FieldSelector = rawFields(s)
	}
	if s := res.LabelSelector; s != nil {
		i.LabelSelector = rawLabels(s)
	}
	return i
}
