package https

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

// The wait between attempts to reach the server grows from retryMin to
// retryMax; it is spread at random, so that a thousand nodes do not come back
// at the same moment.
const (
	retryMin = 200 * time.Millisecond
	retryMax = 10 * time.Second
	pageSize = 500
)

// Table implements client.Transport: one table per resource and scope, fed by
// list and watch for as long as the transport is open.
func (t *Transport) Table(_ context.Context, gvr schema.GroupVersionResource, scope watchcache.Scope) (*watchcache.Table, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	key := tableKey{gvr, scope}
	if f := t.tables[key]; f != nil {
		return f.table, nil
	}
	ctx, stop := context.WithCancel(t.ctx)
	f := &feed{table: watchcache.NewTable(gvr.GroupResource().String()), stop: stop}
	t.tables[key] = f
	t.feeds.Go(func() {
		defer f.table.Close()
		t.feed(ctx, f.table, key)
	})
	return f.table, nil
}

// Release ends the feed of a table that nobody reads any more, such as that of
// one object. Its readers get watchcache.ErrClosed.
func (t *Transport) Release(gvr schema.GroupVersionResource, scope watchcache.Scope) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := tableKey{gvr, scope}
	if f := t.tables[key]; f != nil {
		f.stop()
		delete(t.tables, key)
	}
}

// feed keeps a table current: list, then watch from there, and again when the
// server no longer has what was missed.
func (t *Transport) feed(ctx context.Context, table *watchcache.Table, key tableKey) {
	wait := retryMin
	rev := int64(0)
	for ctx.Err() == nil {
		var err error
		if rev == 0 {
			rev, err = t.load(ctx, table, key)
		}
		if err == nil {
			var seen int64
			seen, err = t.follow(ctx, table, key, rev)
			if seen > rev {
				rev, wait = seen, retryMin
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
			rev = 0
			continue
		case err == nil || errors.Is(err, io.EOF):
			continue // the server ends watches now and then
		}
		level := slog.LevelDebug
		if rev == 0 && wait == retryMax {
			level = slog.LevelWarn // somebody waits for it, and it does not seem to come
		}
		slog.Log(ctx, level, "watch interrupted, will be resumed", "resource", key.gvr.Resource, "in", wait, "err", err)
		select {
		case <-time.After(wait + rand.N(wait)):
		case <-ctx.Done():
		}
		wait = min(2*wait, retryMax)
	}
}

func (k tableKey) ref() client.Ref {
	return client.Ref{GroupVersionResource: k.gvr, Namespace: k.scope.Namespace}
}

// load lists everything, in pages of one snapshot.
func (t *Transport) load(ctx context.Context, table *watchcache.Table, key tableKey) (int64, error) {
	opts := metav1.ListOptions{FieldSelector: client.FieldSelector(key.scope), Limit: pageSize}
	var items []watchcache.Item
	for {
		page, err := t.List(ctx, key.ref(), opts)
		if err != nil {
			return 0, err
		}
		for _, obj := range page.Items {
			rev, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s has resourceVersion %q", obj.GetName(), obj.GetResourceVersion())
			}
			items = append(items, watchcache.Item{Object: obj, Rev: rev})
		}
		if opts.Continue = page.Continue; opts.Continue != "" {
			continue
		}
		rev, err := strconv.ParseInt(page.ResourceVersion, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the list has resourceVersion %q", page.ResourceVersion)
		}
		table.Replace(items, rev)
		return rev, nil
	}
}

// follow applies a watch until it ends and returns how far it came.
func (t *Transport) follow(ctx context.Context, table *watchcache.Table, key tableKey, rev int64) (int64, error) {
	q := url.Values{"watch": {"true"}, "allowWatchBookmarks": {"true"}, "resourceVersion": {strconv.FormatInt(rev, 10)}}
	set(q, "fieldSelector", client.FieldSelector(key.scope))
	resp, err := t.do(ctx, http.MethodGet, key.ref(), q, "", nil)
	if err != nil {
		return rev, err
	}
	defer resp.Body.Close()
	frames := frameReader{r: resp.Body}
	for {
		typ, obj, err := frames.next()
		if err != nil {
			return rev, err
		}
		if typ == watch.Error {
			if status, ok := obj.(*metav1.Status); ok {
				return rev, &apierrors.StatusError{ErrStatus: *status}
			}
			return rev, fmt.Errorf("the watch ended with a %T", obj)
		}
		o, ok := obj.(meta.Object)
		if !ok {
			return rev, fmt.Errorf("the watch delivered a %T", obj)
		}
		at, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
		if err != nil {
			return rev, fmt.Errorf("%s has resourceVersion %q", o.GetName(), o.GetResourceVersion())
		}
		rev = at
		apply(table, typ, o, rev)
	}
}

func apply(table *watchcache.Table, typ watch.EventType, obj meta.Object, rev int64) {
	switch typ {
	case watch.Bookmark:
		table.Progress(rev)
	case watch.Deleted:
		table.Apply([]watchcache.Change{{Key: meta.KeyOf(obj), Rev: rev}}, rev)
	default:
		table.Apply([]watchcache.Change{{Key: meta.KeyOf(obj), Object: obj, Rev: rev}}, rev)
	}
}

// frameReader reads the frames of a protobuf watch: four bytes of length, then
// a WatchEvent, bare, whose object is enveloped.
type frameReader struct {
	r   io.Reader
	buf []byte
}

// maxFrame bounds a frame: an object is at most a few MiB.
const maxFrame = 16 << 20

func (f *frameReader) next() (watch.EventType, runtime.Object, error) {
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return "", nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > maxFrame {
		return "", nil, fmt.Errorf("a watch frame of %d bytes exceeds %d", n, maxFrame)
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	if _, err := io.ReadFull(f.r, f.buf); err != nil {
		return "", nil, err
	}
	var event metav1.WatchEvent
	if err := event.Unmarshal(f.buf); err != nil {
		return "", nil, fmt.Errorf("reading a watch event: %w", err)
	}
	obj, err := decodeAny(scheme.Protobuf, event.Object.Raw)
	return watch.EventType(event.Type), obj, err
}

// listFrom takes the items out of a list object.
func listFrom(obj runtime.Object) (*client.List, error) {
	lm, err := apimeta.ListAccessor(obj)
	if err != nil {
		return nil, errNotAList
	}
	out := &client.List{ResourceVersion: lm.GetResourceVersion(), Continue: lm.GetContinue(), Remaining: lm.GetRemainingItemCount()}
	kind := obj.GetObjectKind().GroupVersionKind()
	kind.Kind = kind.Kind[:len(kind.Kind)-len("List")]
	err = apimeta.EachListItem(obj, func(item runtime.Object) error {
		o, ok := item.(meta.Object)
		if !ok {
			return errNotAList
		}
		o.GetObjectKind().SetGroupVersionKind(kind)
		out.Items = append(out.Items, o)
		return nil
	})
	return out, err
}
