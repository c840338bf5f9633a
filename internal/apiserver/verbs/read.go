package verbs

import (
	"context"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

func formatRev(rev int64) string { return strconv.FormatInt(rev, 10) }

// parseRev reads a resourceVersion that a client sent; "" and "0" are 0.
func parseRev(rv string) (int64, error) {
	if rv == "" || rv == "0" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 63)
	if err != nil {
		return 0, apierrors.NewBadRequest(badRev(rv).Error())
	}
	return int64(n), nil
}

// badRev words what is wrong with a resourceVersion that is no number.
func badRev(rv string) *field.Error {
	_, err := strconv.ParseUint(rv, 10, 63)
	return field.Invalid(field.NewPath("resourceVersion"), rv, fmt.Sprint(err))
}

// mustRev reads the resourceVersion of an object of ours.
func mustRev(rv string) int64 {
	n, err := strconv.ParseInt(rv, 10, 64)
	if err != nil {
		panic("verbs: object with resourceVersion " + strconv.Quote(rv))
	}
	return n
}

func now() metav1.Time { return metav1.Time{Time: time.Now().Truncate(time.Second).UTC()} }

// future is the wait for a revision that a client has seen elsewhere and this
// server has not: after it the client is told to try again.
const future = 3 * time.Second

// Get returns one object. With resourceVersion "" the read is linearizable;
// "0" is whatever the cache has; others wait until the cache is as new.
func (r *Resource) Get(ctx context.Context, key meta.Key, resourceVersion string) (*watchcache.Item, error) {
	if r.info.Observed {
		return r.observeOne(ctx, key)
	}
	if err := r.reach(ctx, resourceVersion); err != nil {
		return nil, err
	}
	item, ok := r.table.Get(key)
	if !ok {
		return nil, r.notFound(key.Name)
	}
	return r.shown(item), nil
}

// reach waits until the cache may answer a read at resourceVersion.
func (r *Resource) reach(ctx context.Context, resourceVersion string) error {
	if resourceVersion == "" {
		if err := r.e.cache.Fresh(ctx); err != nil {
			return unavailable(err)
		}
		return nil
	}
	rev, err := parseRev(resourceVersion)
	if err != nil {
		return err
	}
	return r.waitFor(ctx, rev)
}

func (r *Resource) waitFor(ctx context.Context, rev int64) error {
	if rev <= r.table.Rev() {
		return nil
	}
	// The table may merely not have heard that nothing of its own happened.
	if err := r.e.cache.Fresh(ctx); err != nil {
		return unavailable(err)
	}
	limited, cancel := context.WithTimeout(ctx, future)
	defer cancel()
	if err := r.table.WaitFor(limited, rev); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return tooLarge(rev, r.table.Rev())
	}
	return nil
}

// tooLarge is upstream's answer to a resourceVersion from the future.
func tooLarge(asked, have int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, have), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

// current returns the object for a write that will be guarded by its
// resourceVersion: the cache's, if it has it.
func (r *Resource) current(ctx context.Context, key meta.Key) (meta.Object, error) {
	if item, ok := r.table.Get(key); ok {
		return r.FromHub(item.Object), nil
	}
	return r.stored(ctx, key)
}

// stored returns the object as the store has it.
func (r *Resource) stored(ctx context.Context, key meta.Key) (meta.Object, error) {
	kv, found, _, err := r.e.store.Get(ctx, r.key(key), 0)
	if err != nil {
		return nil, unavailable(err)
	}
	if !found {
		return nil, r.notFound(key.Name)
	}
	obj, err := r.decode(kv.Value, kv.ModRev)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}
