// Package authentication defines the resources of the API group
// authentication.k8s.io. Both are virtual: a create is a question, and nothing
// is stored.
package authentication

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/apiserver/authn"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/resource"
)

// TokenReview is authentication.k8s.io/v1 TokenReview, answered by tokens.
// https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
func TokenReview(tokens authn.TokenAuthenticator) *resource.Definition[*authenticationv1.TokenReview] {
	return &resource.Definition[*authenticationv1.TokenReview]{
		Name:  resource.Name{Group: authenticationv1.GroupName, Version: "v1", Kind: "TokenReview", Plural: "tokenreviews"},
		Scope: resource.Cluster,
		Answer: func(ctx context.Context, t *authenticationv1.TokenReview) error {
			return review(ctx, tokens, t)
		},
	}
}

func review(ctx context.Context, tokens authn.TokenAuthenticator, t *authenticationv1.TokenReview) error {
	if t.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	user, audiences, ok, err := tokens.AuthenticateToken(ctx, t.Spec.Token, t.Spec.Audiences)
	t.Status = authenticationv1.TokenReviewStatus{Authenticated: ok && err == nil}
	if err != nil {
		t.Status.Error = err.Error()
	}
	if t.Status.Authenticated {
		t.Status.User = userInfo(user)
		t.Status.Audiences = audiences
	}
	return nil
}

// SelfSubjectReview is authentication.k8s.io/v1 SelfSubjectReview: kubectl
// auth whoami.
var SelfSubjectReview = &resource.Definition[*authenticationv1.SelfSubjectReview]{
	Name:  resource.Name{Group: authenticationv1.GroupName, Version: "v1", Kind: "SelfSubjectReview", Plural: "selfsubjectreviews"},
	Scope: resource.Cluster,
	Answer: func(ctx context.Context, s *authenticationv1.SelfSubjectReview) error {
		user := request.UserFrom(ctx)
		if user == nil {
			return apierrors.NewBadRequest("no user present on request")
		}
		s.Status = authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(user)}
		return nil
	},
}

func userInfo(u *request.User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for key, values := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}
