package verbs

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff.dev/skiff/internal/apiserver/admission"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/store"
)

// WriteOptions are what create, update and patch have in common.
type WriteOptions struct {
	DryRun bool
	// Manager is the field manager: who is recorded as having set the fields.
	Manager string
	// MayCreate, if set, is asked before an update creates what is not there.
	MayCreate func(context.Context) error
	// applied says that managedFields have been made by a server-side apply.
	applied bool
	// Options are the options as admission shows them to its plugins.
	Options runtime.Object
}

// maxNameTries is how often a generated name is tried before the client is
// told to; collisions of five random characters are rare.
const maxNameTries = 8

// Create stores obj, which becomes the caller's no longer. The namespace of the
// request must be set on it already.
func (r *Resource) Create(ctx context.Context, obj meta.Object, opts WriteOptions) (meta.Object, error) {
	if r.info.Virtual {
		return r.answer(ctx, obj, opts)
	}
	generate := obj.GetName() == "" && obj.GetGenerateName() != ""
	for try := 1; ; try++ {
		attempt := obj
		if generate {
			attempt = meta.Copy(obj)
			attempt.SetName(generatedName(obj.GetGenerateName()))
		}
		got, err := r.create(ctx, attempt, opts)
		if generate && apierrors.IsAlreadyExists(err) && try < maxNameTries {
			continue
		}
		if generate && apierrors.IsAlreadyExists(err) {
			err = apierrors.NewGenerateNameConflict(r.info.Name.GroupResource(), attempt.GetName(), 1)
		}
		return got, err
	}
}

// generatedName adds five random characters, keeping within 63 characters.
func generatedName(base string) string {
	const suffix = 5
	if len(base) > 63-suffix {
		base = base[:63-suffix]
	}
	return base + rand.String(suffix)
}

func (r *Resource) create(ctx context.Context, obj meta.Object, opts WriteOptions) (meta.Object, error) {
	obj.GetObjectKind().SetGroupVersionKind(r.info.Name.GVK())
	beginLife(obj)
	r.Default(obj)
	sent := obj.GetManagedFields()
	r.KeepViews(obj, nil)
	attrs := r.attributes(ctx, admission.Create, "", obj, nil, opts)
	if err := r.e.admission.Mutate(ctx, attrs); err != nil {
		return nil, err
	}
	r.Default(obj)
	r.Prepare(ctx, obj, nil)
	if r.info.HasGeneration {
		obj.SetGeneration(1)
	}
	obj, err := r.manage("", nil, obj, opts, sent)
	if err != nil {
		return nil, err
	}
	return r.commitNew(ctx, attrs, obj, opts)
}

// commitNew allocates, validates and writes; a claim that someone else took in
// between is allocated anew.
func (r *Resource) commitNew(ctx context.Context, attrs *admission.Attributes, obj meta.Object, opts WriteOptions) (meta.Object, error) {
	for {
		attempt := obj
		if r.info.Allocates {
			attempt = meta.Copy(obj) // what is chosen may have to be chosen again
		}
		if err := r.Allocate(ctx, r.access(opts.DryRun), attempt, nil); err != nil {
			return nil, err
		}
		if err := r.validate(ctx, attempt, nil, nil); err != nil {
			return nil, err
		}
		attrs.Object, attrs.Name = attempt, attempt.GetName()
		if err := r.e.admission.Validate(ctx, attrs); err != nil {
			return nil, err
		}
		if opts.DryRun {
			return attempt, r.refuseExisting(ctx, attempt)
		}
		err := r.insert(ctx, attempt)
		var taken *claimTaken
		if errors.As(err, &taken) && r.info.Allocates && !holdsClaim(r.Claims(obj), taken.claim.Key) {
			continue // we chose it ourselves; choose again
		}
		if errors.As(err, &taken) {
			return nil, taken.claim.Conflict
		}
		return attempt, err
	}
}

func (r *Resource) refuseExisting(ctx context.Context, obj meta.Object) error {
	if err := r.e.cache.Fresh(ctx); err != nil {
		return unavailable(err)
	}
	if _, ok := r.table.Get(meta.KeyOf(obj)); ok {
		return apierrors.NewAlreadyExists(r.info.Name.GroupResource(), obj.GetName())
	}
	return nil
}

// insert writes a new object and its claims in one transaction.
func (r *Resource) insert(ctx context.Context, obj meta.Object) error {
	value, err := r.encode(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	key := r.key(meta.KeyOf(obj))
	txn := store.Txn{
		If: []store.Cond{{Key: key}},
		Do: []store.Op{{Key: key, Value: value, TTL: expiry(r.TTL(obj))}},
	}
	claims := r.Claims(obj)
	r.claim(&txn, meta.KeyOf(obj), claims)
	res, err := r.e.store.Commit(ctx, txn)
	if err != nil {
		return unavailable(err)
	}
	if res.OK {
		r.landed(obj, key, res.Rev)
		return nil
	}
	for _, kv := range res.Now {
		if kv.Key == key {
			return apierrors.NewAlreadyExists(r.info.Name.GroupResource(), obj.GetName())
		}
	}
	return r.takenBy(res, claims)
}

// landed completes an object that has been written, and hands it to the cache.
func (r *Resource) landed(obj meta.Object, key string, rev int64) {
	obj.SetResourceVersion(formatRev(rev))
	r.e.cache.Written(key, rev, r.ToHub(obj))
}

// beginLife sets the metadata that every new object gets.
func beginLife(obj meta.Object) {
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(now())
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetResourceVersion("")
}

// answer serves a virtual resource: its definition fills in the status.
func (r *Resource) answer(ctx context.Context, obj meta.Object, opts WriteOptions) (meta.Object, error) {
	obj.GetObjectKind().SetGroupVersionKind(r.info.Name.GVK())
	r.Default(obj)
	attrs := r.attributes(ctx, admission.Create, "", obj, nil, opts)
	if err := r.e.admission.Mutate(ctx, attrs); err != nil {
		return nil, err
	}
	r.Prepare(ctx, obj, nil)
	report := check.NewReport()
	r.Validate(report, obj, nil)
	if report.Failed() {
		return nil, apierrors.NewInvalid(r.info.Name.GVK().GroupKind(), obj.GetName(), report.Errors())
	}
	if err := r.e.admission.Validate(ctx, attrs); err != nil {
		return nil, err
	}
	if err := r.Answer(ctx, obj); err != nil {
		return nil, err
	}
	return obj, nil
}

// Transform makes the new object from the stored one, which it must not
// change. exists is false when an upsert starts from an empty object. It may
// be called again if the object changed in between.
type Transform func(ctx context.Context, old meta.Object, exists bool) (meta.Object, error)

// Update replaces the object at key, or its view (subresource), by what
// transform makes of it. created tells that an upsert created it.
func (r *Resource) Update(ctx context.Context, key meta.Key, view string, transform Transform, pre *metav1.Preconditions, opts WriteOptions) (obj meta.Object, created bool, err error) {
	for {
		obj, there, err := r.rewrite(ctx, key, func(old meta.Object) (meta.Object, error) {
			return r.update(ctx, old, view, transform, pre, opts)
		})
		if there || !r.mayCreate(view, opts) {
			return obj, false, err
		}
		obj, err = r.upsert(ctx, key, transform, opts)
		if !apierrors.IsAlreadyExists(err) {
			return obj, true, err
		}
	}
}

// rewrite has try write over the object at key, as the cache has it: again
// when another write came between, and on what the store has when an old cache
// entry may be why try failed, or found nothing to change and returned old. It
// tells whether the object was there at all.
func (r *Resource) rewrite(ctx context.Context, key meta.Key, try func(old meta.Object) (meta.Object, error)) (obj meta.Object, there bool, err error) {
	old, err := r.current(ctx, key)
	confirmed := false // old has been read from the store
	for {
		if err != nil {
			return nil, !apierrors.IsNotFound(err), err
		}
		obj, terr := try(old)
		var raced *race
		switch stale := old; {
		case errors.As(terr, &raced):
			old, err = r.redecode(raced.now, key)
			confirmed = true
		case !confirmed && (mayBeStale(terr) || terr == nil && obj == old):
			old, err = r.stored(ctx, key)
			confirmed = true
			if err == nil && old.GetResourceVersion() == stale.GetResourceVersion() {
				return obj, true, terr
			}
		default:
			return obj, true, terr
		}
	}
}

// mayBeStale reports whether an error could be due to an old cache entry.
func mayBeStale(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err)
}

func (r *Resource) mayCreate(view string, opts WriteOptions) bool {
	return view == "" && (r.info.Upsert || isApply(opts))
}

func (r *Resource) upsert(ctx context.Context, key meta.Key, transform Transform, opts WriteOptions) (meta.Object, error) {
	if opts.MayCreate != nil {
		if err := opts.MayCreate(ctx); err != nil {
			return nil, err
		}
	}
	empty := r.New()
	empty.SetNamespace(key.Namespace)
	empty.SetName(key.Name)
	obj, err := transform(ctx, empty, false)
	if err != nil {
		return nil, err
	}
	if obj.GetResourceVersion() != "" || obj.GetUID() != "" {
		return nil, r.notFound(key.Name)
	}
	return r.create(ctx, obj, opts)
}

// race says that the object changed between read and write; now is its state,
// nil if it is gone.
type race struct{ now *store.KV }

func (*race) Error() string { return "the object has changed in the meantime" }

func (r *Resource) update(ctx context.Context, old meta.Object, view string, transform Transform, pre *metav1.Preconditions, opts WriteOptions) (meta.Object, error) {
	if err := r.checkPreconditions(old, pre); err != nil {
		return nil, err
	}
	obj, err := transform(ctx, old, true)
	if err != nil {
		return nil, err
	}
	if err := r.checkIdentity(obj, old); err != nil {
		return nil, err
	}
	sent := obj.GetManagedFields()
	keepMetadata(obj, old)
	v := r.View(view)
	r.Default(obj)
	r.settle(v, obj, old)
	attrs := r.attributes(ctx, admission.Update, view, obj, old, opts)
	if err := r.e.admission.Mutate(ctx, attrs); err != nil {
		return nil, err
	}
	r.Default(obj)
	r.settle(v, obj, old)
	if v != nil {
		v.Prepare(ctx, obj, old)
	} else {
		r.Prepare(ctx, obj, old)
	}
	obj.SetGeneration(old.GetGeneration())
	if r.SpecChanged(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	obj, err = r.manage(view, old, obj, opts, sent)
	if err != nil {
		return nil, err
	}
	return r.commitUpdate(ctx, attrs, v, obj, old, opts)
}

// settle restores what a write through the view, or past it, may not touch.
func (r *Resource) settle(v resource.AnyView, obj, old meta.Object) {
	if v != nil {
		v.Reset(obj, old)
		return
	}
	r.KeepViews(obj, old)
}

func (r *Resource) commitUpdate(ctx context.Context, attrs *admission.Attributes, v resource.AnyView, obj, old meta.Object, opts WriteOptions) (meta.Object, error) {
	if v == nil {
		if err := r.Allocate(ctx, r.access(opts.DryRun), obj, old); err != nil {
			return nil, err
		}
	}
	if err := r.validate(ctx, obj, old, v); err != nil {
		return nil, err
	}
	attrs.Object = obj
	if err := r.e.admission.Validate(ctx, attrs); err != nil {
		return nil, err
	}
	if unchanged(obj, old) {
		return old, nil
	}
	if opts.DryRun {
		return obj, nil
	}
	if r.finished(obj) {
		return r.remove(ctx, obj, old)
	}
	return r.replace(ctx, obj, old)
}

// unchanged reports whether a write would change nothing but the time at which
// a manager last set its fields: such writes are not made (KEP-555).
func unchanged(obj, old meta.Object) bool {
	obj.SetResourceVersion(old.GetResourceVersion())
	return equality.Semantic.DeepEqual(obj, old)
}

// finished reports whether an object that is being deleted has nothing left to
// wait for.
func (r *Resource) finished(obj meta.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 || r.Held(obj) {
		return false
	}
	grace := obj.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// replace writes obj over old if old is still what is stored.
func (r *Resource) replace(ctx context.Context, obj, old meta.Object) (meta.Object, error) {
	value, err := r.encode(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	key := r.key(meta.KeyOf(obj))
	txn := store.Txn{
		If: []store.Cond{{Key: key, ModRev: mustRev(old.GetResourceVersion())}},
		Do: []store.Op{{Key: key, Value: value, TTL: expiry(r.TTL(obj))}},
	}
	gained, lost := claimDiff(r.Claims(obj), r.Claims(old))
	r.claim(&txn, meta.KeyOf(obj), gained)
	release(&txn, lost)
	res, err := r.e.store.Commit(ctx, txn)
	if err != nil {
		return nil, unavailable(err)
	}
	if res.OK {
		r.landed(obj, key, res.Rev)
		return obj, nil
	}
	if now, raced := racedOn(res, key, txn.If[0].ModRev); raced {
		return nil, &race{now: now}
	}
	err = r.takenBy(res, gained)
	var taken *claimTaken
	if errors.As(err, &taken) {
		return nil, taken.claim.Conflict
	}
	return nil, err
}

// racedOn reports whether the condition on key is what failed.
func racedOn(res store.Result, key string, want int64) (*store.KV, bool) {
	for i := range res.Now {
		if res.Now[i].Key == key {
			return &res.Now[i], res.Now[i].ModRev != want
		}
	}
	return nil, true
}

func (r *Resource) redecode(kv *store.KV, key meta.Key) (meta.Object, error) {
	if kv == nil {
		return nil, r.notFound(key.Name)
	}
	obj, err := r.decode(kv.Value, kv.ModRev)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

// checkIdentity refuses an update that speaks of another object, or of another
// version of it.
func (r *Resource) checkIdentity(obj, old meta.Object) error {
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return r.conflict(old.GetName(), fmt.Sprintf(
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID()))
	}
	rv := obj.GetResourceVersion()
	if _, err := parseRev(rv); err != nil {
		return err
	}
	if rv == "" || rv == "0" {
		if r.info.NeedsVersion {
			kind := schema.GroupKind{Group: r.info.Name.Group, Kind: r.info.Name.Plural}
			return apierrors.NewInvalid(kind, old.GetName(), needsVersion)
		}
		return nil
	}
	if rv != old.GetResourceVersion() {
		return r.conflict(old.GetName(), optimisticLock)
	}
	return nil
}

const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

func (r *Resource) checkPreconditions(old meta.Object, pre *metav1.Preconditions) error {
	if pre == nil {
		return nil
	}
	if pre.UID != nil && *pre.UID != old.GetUID() {
		return r.conflict(old.GetName(), fmt.Sprintf(
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", *pre.UID, old.GetUID()))
	}
	if pre.ResourceVersion != nil && *pre.ResourceVersion != old.GetResourceVersion() {
		return r.conflict(old.GetName(), fmt.Sprintf(
			"Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v",
			*pre.ResourceVersion, old.GetResourceVersion()))
	}
	return nil
}

// keepMetadata restores what no update may change; the rest of the metadata is
// validated.
func keepMetadata(obj, old meta.Object) {
	obj.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetGenerateName(old.GetGenerateName())
	obj.SetSelfLink("")
	obj.SetResourceVersion(old.GetResourceVersion())
}

// validate checks metadata and object; v is the view written through, if any.
func (r *Resource) validate(ctx context.Context, obj, old meta.Object, v resource.AnyView) error {
	report := check.NewReport()
	namespaced := r.info.Scope == resource.Namespaced
	if old == nil {
		check.ObjectMeta(report, obj, namespaced, r.info.NameRule)
		r.Validate(report, obj, nil)
	} else {
		check.ObjectMetaUpdate(report, obj, old)
		if v != nil {
			v.Validate(report, obj, old)
		} else {
			r.Validate(report, obj, old)
		}
	}
	for _, w := range report.Warnings() {
		request.Warn(ctx, w)
	}
	if report.Failed() {
		return apierrors.NewInvalid(r.info.Name.GVK().GroupKind(), obj.GetName(), report.Errors())
	}
	return nil
}

func (r *Resource) attributes(ctx context.Context, op admission.Operation, sub string, obj, old meta.Object, opts WriteOptions) *admission.Attributes {
	a := &admission.Attributes{
		Operation: op, Kind: r.info.Name.GVK(), Resource: r.info.Name.GVR(), Subresource: sub,
		User: request.UserFrom(ctx), Options: opts.Options, DryRun: opts.DryRun,
	}
	// Assigned only if there, so that a nil object stays a nil interface.
	if obj != nil {
		a.Object, a.Namespace, a.Name = obj, obj.GetNamespace(), obj.GetName()
	}
	if old != nil {
		a.Old, a.Namespace, a.Name = old, old.GetNamespace(), old.GetName()
	}
	return a
}
