package server

import (
	"context"
	"net/http"

	authorizationv1 "k8s.io/api/authorization/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/review"
)

// User is who sent a request.
type User = review.User

// ErrUnauthenticated means that a request has no valid credential.
var ErrUnauthenticated = review.ErrUnauthenticated

// Access decides who a client is and what it may do.
type Access interface {
	// Authenticate returns ErrUnauthenticated where there is no valid credential.
	Authenticate(r *http.Request) (User, error)
	// Authorize tells whether user may do verb with a subresource of this node.
	Authorize(ctx context.Context, user User, verb, subresource string) (bool, error)
}

// Reviews is Access by the API server's answers.
type Reviews struct {
	*review.Reviews
	node string
}

// NewReviews returns the Access of a node that asks through c, and asks again
// when an answer is older than last says.
func NewReviews(c *client.Client, node string, last review.Lifetimes) *Reviews {
	return &Reviews{review.NewFor(c, last), node}
}

// Authorize implements Access.
func (a *Reviews) Authorize(ctx context.Context, user User, verb, subresource string) (bool, error) {
	return a.Allowed(ctx, user, authorizationv1.SubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Version: "v1", Resource: "nodes", Name: a.node, Verb: verb, Subresource: subresource},
	})
}
