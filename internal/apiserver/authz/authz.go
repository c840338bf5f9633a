// Package authz decides whether a user may do what a request asks for.
package authz

import (
	"context"

	"skiff.dev/skiff/internal/apiserver/request"
)

// Decision is the answer of one authorizer.
type Decision int

const (
	// NoOpinion passes the question on; if no authorizer allows, it is denied.
	NoOpinion Decision = iota
	Allow
	Deny
)

// Authorizer answers whether user may do what info says. The reason is for
// people; on NoOpinion all reasons are joined into the 403.
type Authorizer interface {
	Authorize(ctx context.Context, user *request.User, info *request.Info) (d Decision, reason string, err error)
}

// Union asks each authorizer in turn until one allows or denies.
type Union []Authorizer
