// Package authz decides whether a user may do what a request asks for. It
// holds the interface of an authorizer, the ways to combine them, the simple
// modes, and the one place that words a refusal. The modes with a state of
// their own are packages below it: rbac and node.
package authz

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

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

// Func is an authorizer that is a function.
type Func func(ctx context.Context, user *request.User, info *request.Info) (Decision, string, error)

// Authorize calls f.
func (f Func) Authorize(ctx context.Context, user *request.User, info *request.Info) (Decision, string, error) {
	return f(ctx, user, info)
}

// Union asks each authorizer in turn until one allows or denies.
type Union []Authorizer

// Authorize returns the first decision that is not NoOpinion. Errors of
// authorizers that had no opinion come back only if nobody decided.
func (u Union) Authorize(ctx context.Context, user *request.User, info *request.Info) (Decision, string, error) {
	var reasons []string
	var errs []error
	for _, a := range u {
		d, reason, err := a.Authorize(ctx, user, info)
		if d != NoOpinion {
			return d, reason, err
		}
		if err != nil {
			errs = append(errs, err)
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return NoOpinion, strings.Join(reasons, "\n"), errors.Join(errs...)
}

// Forbidden is the 403 for user asking for info; reason may be empty.
func Forbidden(user *request.User, info *request.Info, reason string) *apierrors.StatusError {
	text := refusal(user, info)
	if reason != "" {
		text += ": " + reason
	}
	gr := info.GroupResource()
	name := info.Name
	if !info.IsResource {
		gr.Group, gr.Resource, name = "", "", ""
	}
	return apierrors.NewForbidden(gr, name, errors.New(text))
}

func refusal(user *request.User, info *request.Info) string {
	var name string
	if user != nil {
		name = user.Name
	}
	if !info.IsResource {
		return fmt.Sprintf("User %q cannot %s path %q", name, info.Verb, info.Path)
	}
	resource := info.Resource
	if info.Subresource != "" {
		resource += "/" + info.Subresource
	}
	where := "at the cluster scope"
	if info.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", info.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", name, info.Verb, resource, info.Group, where)
}

// Require returns the 403 unless a allows user to do what info says. An
// authorizer that fails without a decision makes it a 500, as upstream's does.
func Require(ctx context.Context, a Authorizer, user *request.User, info *request.Info) error {
	d, reason, err := a.Authorize(ctx, user, info)
	switch {
	case d == Allow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(err)
	default:
		return Forbidden(user, info, reason)
	}
}
