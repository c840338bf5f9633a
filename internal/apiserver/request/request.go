// Package request describes a request to the API as authentication,
// authorization, admission and audit see it: who asks for what. It travels in
// the context.
package request

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// User is an authenticated identity.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// The groups and users that the server itself gives out.
const (
	Anonymous            = "system:anonymous"
	GroupUnauthenticated = "system:unauthenticated"
	GroupAuthenticated   = "system:authenticated"
	GroupMasters         = "system:masters"
	GroupNodes           = "system:nodes"
	GroupServiceAccounts = "system:serviceaccounts"
)

// InGroup reports whether the user is a member of group.
func (u *User) InGroup(group string) bool {
	for _, g := range u.Groups {
		if g == group {
			return true
		}
	}
	return false
}

// Info says what a request asks for.
type Info struct {
	// Verb is the API verb for resource requests (get, list, watch, create,
	// update, patch, delete, deletecollection, proxy, connect …), the lower-case
	// HTTP method otherwise.
	Verb string
	// Path is the URL path.
	Path string
	// IsResource tells resource requests from the others.
	IsResource bool

	Group, Version, Resource, Subresource string
	Namespace, Name                       string
	// Rest is what follows the subresource in the path (proxy).
	Rest string
	// FieldSelector and LabelSelector are the raw selectors of list, watch and
	// deletecollection.
	FieldSelector, LabelSelector string
}

// GroupResource returns the resource asked for.
func (i *Info) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: i.Group, Resource: i.Resource}
}

type contextKey int

const (
	userKey contextKey = iota
	infoKey
	warningsKey
)

// WithUser returns a context in which the request is made by u.
func WithUser(ctx context.Context, u *User) context.Context {
	return context.WithValue(ctx, userKey, u)
}

// UserFrom returns who makes the request; nil if that is not known.
func UserFrom(ctx context.Context) *User {
	u, _ := ctx.Value(userKey).(*User)
	return u
}

// WithInfo returns a context that carries what the request asks for.
func WithInfo(ctx context.Context, i *Info) context.Context {
	return context.WithValue(ctx, infoKey, i)
}

// InfoFrom returns what the request asks for, or nil.
func InfoFrom(ctx context.Context) *Info {
	i, _ := ctx.Value(infoKey).(*Info)
	return i
}

// Warnings collects the warnings that the answer carries as headers.
type Warnings struct {
	mu   sync.Mutex
	list []string
}

// WithWarnings returns a context that collects warnings, and the collection.
func WithWarnings(ctx context.Context) (context.Context, *Warnings) {
	w := &Warnings{}
	return context.WithValue(ctx, warningsKey, w), w
}

// Warn adds a warning to the answer, once; without a collection it is dropped.
func Warn(ctx context.Context, text string) {
	w, _ := ctx.Value(warningsKey).(*Warnings)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, have := range w.list {
		if have == text {
			return
		}
	}
	w.list = append(w.list, text)
}

// List returns the warnings so far.
func (w *Warnings) List() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.list...)
}

// WarningsFrom returns the collection that the context carries, or nil.
func WarningsFrom(ctx context.Context) *Warnings {
	w, _ := ctx.Value(warningsKey).(*Warnings)
	return w
}
