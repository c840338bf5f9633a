package verbs

import (
	"cmp"
	"context"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/watchcache"
)

// observe lists objects that are made for this reading. They have no revision
// and come in one page, whatever the limit.
func (r *Resource) observe(ctx context.Context, namespace string, opts ListOptions) (*Listed, error) {
	if opts.Continue != "" {
		return nil, apierrors.NewBadRequest("invalid continue token: lists of this resource have one page")
	}
	q := resource.Query{Namespace: namespace, Labels: opts.Labels}
	if opts.Fields != nil {
		if name, ok := opts.Fields.RequiresExactMatch("metadata.name"); ok {
			q.Name = name
		}
		if ns, ok := opts.Fields.RequiresExactMatch("metadata.namespace"); ok && namespace == "" {
			q.Namespace = ns
		}
	}
	objs, err := r.Observe(ctx, r.access(false), q)
	if err != nil {
		return nil, err
	}
	objs = slices.DeleteFunc(objs, func(obj meta.Object) bool { return !r.Matches(&opts, obj) })
	slices.SortFunc(objs, func(a, b meta.Object) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	})
	out := &Listed{Items: make([]*watchcache.Item, len(objs))}
	for i, obj := range objs {
		out.Items[i] = &watchcache.Item{Object: obj}
	}
	return out, nil
}

// observeOne makes one object for this reading.
func (r *Resource) observeOne(ctx context.Context, key meta.Key) (*watchcache.Item, error) {
	objs, err := r.Observe(ctx, r.access(false), resource.Query{Namespace: key.Namespace, Name: key.Name})
	if err != nil {
		return nil, err
	}
	for _, obj := range objs {
		if meta.KeyOf(obj) == key {
			return &watchcache.Item{Object: obj}, nil
		}
	}
	return nil, r.notFound(key.Name)
}
