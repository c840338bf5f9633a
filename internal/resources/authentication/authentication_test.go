package authentication

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/apiserver/request"
)

type oneToken struct{}

func (oneToken) AuthenticateToken(_ context.Context, token string, audiences []string) (*request.User, []string, bool, error) {
	switch token {
	case "good":
		return &request.User{Name: "ann", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}, audiences, true, nil
	case "bad":
		return nil, nil, false, errors.New("has expired")
	}
	return nil, nil, false, nil
}

func TestTokenReview(t *testing.T) {
	for token, want := range map[string]authenticationv1.TokenReviewStatus{
		"good": {Authenticated: true, Audiences: []string{"db"}, User: authenticationv1.UserInfo{
			Username: "ann", Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}},
		"bad":     {Error: "has expired"},
		"unknown": {},
	} {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"db"}},
			Status: authenticationv1.TokenReviewStatus{Authenticated: true}}
		if err := TokenReview(oneToken{}).Answer(context.Background(), review); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, review.Status); diff != "" {
			t.Errorf("%s: %s", token, diff)
		}
	}
	if err := TokenReview(oneToken{}).Answer(context.Background(), &authenticationv1.TokenReview{}); !apierrors.IsBadRequest(err) {
		t.Errorf("without a token: %v", err)
	}
}

func TestSelfSubjectReview(t *testing.T) {
	ctx := request.WithUser(context.Background(), &request.User{Name: "ann", UID: "1", Groups: []string{"g"}})
	s := &authenticationv1.SelfSubjectReview{}
	if err := SelfSubjectReview.Answer(ctx, s); err != nil {
		t.Fatal(err)
	}
	want := authenticationv1.UserInfo{Username: "ann", UID: "1", Groups: []string{"g"}}
	if diff := cmp.Diff(want, s.Status.UserInfo); diff != "" {
		t.Error(diff)
	}
}
