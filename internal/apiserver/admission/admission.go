// Package admission runs the plugins that may change or refuse a write after
// it has been authorized.
package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/request"
)

// Operation is what a write does.
type Operation string

const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes describe the write that is to be admitted.
type Attributes struct {
	Operation   Operation
	Kind        schema.GroupVersionKind
	Resource    schema.GroupVersionResource
	Subresource string
	Namespace   string
	Name        string
	// Object is the new object, the body of an action, or the options of a
	// connect; nil for a delete. A mutating plugin may change it.
	Object runtime.Object
	// Old is the stored object; nil for a create. Read-only.
	Old runtime.Object
	// Options are the request's CreateOptions, UpdateOptions, … .
	Options runtime.Object
	User    *request.User
	DryRun  bool
}

// A Plugin is one admission check. Either function may be nil.
type Plugin struct {
	Name string
	// Handles says whether the plugin wants to see the write; nil means all.
	Handles func(a *Attributes) bool
	// Mutate may change a.Object, before validation.
	Mutate func(ctx context.Context, a *Attributes) error
	// Validate may only refuse, after validation.
	Validate func(ctx context.Context, a *Attributes) error
}

// Chain is the list of plugins in the order in which they run.
type Chain []*Plugin

// Mutate runs the mutating half of every plugin that handles a.
func (c Chain) Mutate(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if p.Mutate == nil || (p.Handles != nil && !p.Handles(a)) {
			continue
		}
		if err := p.Mutate(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// Validate runs the validating half of every plugin that handles a.
func (c Chain) Validate(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if p.Validate == nil || (p.Handles != nil && !p.Handles(a)) {
			continue
		}
		if err := p.Validate(ctx, a); err != nil {
			return err
		}
	}
	return nil
}
