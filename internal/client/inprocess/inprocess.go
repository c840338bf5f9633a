// Package inprocess is the client's transport inside the API server's own
// process: authorization under the component's own identity, then the verbs.
// No socket, no encoding, no copy; the caches are the server's.
package inprocess

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	autoscalingv1 "k8s.io/api/autoscaling/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// Transport is a client.Transport under one identity.
type Transport struct {
	engine     *verbs.Engine
	authorizer authz.Authorizer
	user       *request.User
	manager    string
}

// New returns a transport for user. The field manager of its writes is manager.
func New(e *verbs.Engine, a authz.Authorizer, user *request.User, manager string) *Transport {
	return &Transport{engine: e, authorizer: a, user: user, manager: manager}
}

// enter authorizes the request and finds its resource.
func (t *Transport) enter(ctx context.Context, verb string, ref client.Ref) (context.Context, *verbs.Resource, error) {
	return t.enterAs(ctx, &request.Info{
		Verb: verb, IsResource: true, Group: ref.Group, Version: ref.Version, Resource: ref.Resource,
		Subresource: ref.Subresource, Namespace: ref.Namespace, Name: ref.Name,
	}, ref)
}

func (t *Transport) enterAs(ctx context.Context, info *request.Info, ref client.Ref) (context.Context, *verbs.Resource, error) {
	if err := authz.Require(ctx, t.authorizer, t.user, info); err != nil {
		return nil, nil, err
	}
	res, ok := t.engine.Resource(ref.GroupVersionResource)
	if !ok {
		return nil, nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name)
	}
	if ref.Subresource == "" && !slices.Contains(res.Info().Verbs(), info.Verb) {
		return nil, nil, apierrors.NewMethodNotSupported(ref.GroupResource(), info.Verb)
	}
	return request.WithInfo(request.WithUser(ctx, t.user), info), res, nil
}

func key(ref client.Ref) meta.Key { return meta.Key{Namespace: ref.Namespace, Name: ref.Name} }

func (t *Transport) options(dryRun []string, manager string, opts runtime.Object) verbs.WriteOptions {
	if manager == "" {
		manager = t.manager
	}
	return verbs.WriteOptions{DryRun: len(dryRun) > 0, Manager: manager, Options: opts}
}

// Get implements client.Transport.
func (t *Transport) Get(ctx context.Context, ref client.Ref, opts metav1.GetOptions) (meta.Object, error) {
	ctx, res, err := t.enter(ctx, "get", ref)
	if err != nil {
		return nil, err
	}
	item, err := res.Get(ctx, key(ref), opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if ref.Subresource == "scale" {
		return res.ScaleOf(item.Object), nil
	}
	return item.Object, nil
}

// List implements client.Transport.
func (t *Transport) List(ctx context.Context, ref client.Ref, opts metav1.ListOptions) (*client.List, error) {
	ctx, res, err := t.enter(ctx, "list", ref)
	if err != nil {
		return nil, err
	}
	sel, err := selectors(opts)
	if err != nil {
		return nil, err
	}
	listed, err := res.List(ctx, ref.Namespace, sel)
	if err != nil {
		return nil, err
	}
	out := &client.List{
		ResourceVersion: strconv.FormatInt(listed.Rev, 10), Continue: listed.Continue, Remaining: listed.Remaining,
		Items: make([]meta.Object, len(listed.Items)),
	}
	for i, item := range listed.Items {
		out.Items[i] = item.Object
	}
	return out, nil
}

func selectors(opts metav1.ListOptions) (verbs.ListOptions, error) {
	out := verbs.ListOptions{
		Limit: opts.Limit, Continue: opts.Continue,
		ResourceVersion: opts.ResourceVersion, ResourceVersionMatch: opts.ResourceVersionMatch,
	}
	var err error
	if out.Labels, err = labels.Parse(opts.LabelSelector); err != nil {
		return out, apierrors.NewBadRequest(err.Error())
	}
	if out.Fields, err = fields.ParseSelector(opts.FieldSelector); err != nil {
		return out, apierrors.NewBadRequest(err.Error())
	}
	return out, nil
}

// Create implements client.Transport; with a subresource it is an action.
func (t *Transport) Create(ctx context.Context, ref client.Ref, obj runtime.Object, opts metav1.CreateOptions) (runtime.Object, error) {
	ctx, res, err := t.enter(ctx, "create", ref)
	if err != nil {
		return nil, err
	}
	wopts := t.options(opts.DryRun, opts.FieldManager, &opts)
	if ref.Subresource == "" {
		return res.Create(ctx, obj.DeepCopyObject().(meta.Object), wopts)
	}
	for _, a := range res.Info().Actions {
		if a.Name == ref.Subresource {
			return res.Act(ctx, key(ref), a, obj.DeepCopyObject(), wopts)
		}
	}
	return nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name+"/"+ref.Subresource)
}

// Update implements client.Transport.
func (t *Transport) Update(ctx context.Context, ref client.Ref, obj meta.Object, opts metav1.UpdateOptions) (meta.Object, error) {
	ctx, res, err := t.enter(ctx, "update", ref)
	if err != nil {
		return nil, err
	}
	wopts := t.options(opts.DryRun, opts.FieldManager, &opts)
	if ref.Subresource == "scale" {
		scale := obj.(*autoscalingv1.Scale)
		return res.UpdateScale(ctx, key(ref), func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return scale, nil }, wopts)
	}
	got, _, err := res.Update(ctx, key(ref), ref.Subresource, func(context.Context, meta.Object, bool) (meta.Object, error) {
		return meta.Copy(obj), nil
	}, nil, wopts)
	return got, err
}

// Patch implements client.Transport. Unknown fields are errors: the program
// that sends them is ours.
func (t *Transport) Patch(ctx context.Context, ref client.Ref, pt types.PatchType, data []byte, opts metav1.PatchOptions) (meta.Object, error) {
	ctx, res, err := t.enter(ctx, "patch", ref)
	if err != nil {
		return nil, err
	}
	strict := func(faults []error) error {
		if len(faults) > 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("strict decoding error: %v", faults))
		}
		return nil
	}
	force := opts.Force != nil && *opts.Force
	got, _, err := res.Patch(ctx, key(ref), ref.Subresource, pt, data, force, strict, t.options(opts.DryRun, opts.FieldManager, &opts))
	return got, err
}

// Delete implements client.Transport.
func (t *Transport) Delete(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions) (string, error) {
	ctx, res, err := t.enter(ctx, "delete", ref)
	if err != nil {
		return "", err
	}
	obj, _, err := res.Delete(ctx, key(ref), opts)
	if err != nil {
		return "", err
	}
	return obj.GetResourceVersion(), nil
}

// DeleteCollection implements client.Transport.
func (t *Transport) DeleteCollection(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions, list metav1.ListOptions) error {
	ctx, res, err := t.enter(ctx, "deletecollection", ref)
	if err != nil {
		return err
	}
	sel, err := selectors(list)
	if err != nil {
		return err
	}
	_, err = res.DeleteCollection(ctx, ref.Namespace, opts, sel)
	return err
}

// Table implements client.Transport: it is the server's own table, whatever
// the scope. Opening it takes the right to list and watch what the scope
// selects.
func (t *Transport) Table(ctx context.Context, gvr schema.GroupVersionResource, scope watchcache.Scope) (*watchcache.Table, error) {
	ref := client.Ref{GroupVersionResource: gvr}
	var res *verbs.Resource
	for _, verb := range []string{"list", "watch"} {
		info := &request.Info{
			Verb: verb, IsResource: true, Group: gvr.Group, Version: gvr.Version, Resource: gvr.Resource,
			Namespace: scope.Namespace, Name: scope.Name, FieldSelector: client.FieldSelector(scope),
		}
		var err error
		if _, res, err = t.enterAs(ctx, info, ref); err != nil {
			return nil, err
		}
	}
	if res.Table() == nil {
		return nil, apierrors.NewBadRequest(gvr.GroupResource().String() + " is another form of a resource; open the cache of that")
	}
	return res.Table(), nil
}
