package watchcache

import (
	"context"
	"errors"
	"time"

	"skiff.dev/skiff/internal/store"
)

// pageSize is how many objects are read at once.
const pageSize = 1000

// load reads a resource whole and joins it to the feed: while the list is read,
// the feed's events for the resource wait; then those that are newer than the
// list follow it. Each resource may be listed at a revision of its own.
func (c *Cache) load(ctx context.Context, r *resource, l *load) {
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		c.mu.Lock()
		if r.loading == l {
			r.pending = nil // the list to come shows it
		}
		c.mu.Unlock()
		got, err := c.list(ctx, r)
		if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
			return // for the latter, run has said so
		}
		if err == nil {
			c.finishLoad(r, l, got)
			return
		}
		c.log.Warn("loading a resource failed, trying again", "resource", r.Name, "err", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// listed is the content of a resource at one revision.
type listed struct {
	items []Item
	rev   int64
	bad   []badKV
}

type badKV struct {
	kv  store.KV
	err error
}

// list reads all pages at the revision of the first.
func (c *Cache) list(ctx context.Context, r *resource) (listed, error) {
	select {
	case c.loads <- struct{}{}:
		defer func() { <-c.loads }()
	case <-ctx.Done():
		return listed{}, ctx.Err()
	}
	var got listed
	opts := store.ListOptions{Limit: pageSize}
	for {
		page, err := c.store.List(ctx, r.Prefix, opts)
		if err != nil {
			return listed{}, err
		}
		got.rev = page.Rev
		for _, kv := range page.KVs {
			obj, err := r.decode(kv)
			if err != nil {
				kv.Value = nil
				got.bad = append(got.bad, badKV{kv, err})
				continue
			}
			got.items = append(got.items, Item{Object: obj, Rev: kv.ModRev})
		}
		if !page.More || len(page.KVs) == 0 {
			return got, nil
		}
		opts.Rev = page.Rev
		opts.After = page.KVs[len(page.KVs)-1].Key
	}
}

// finishLoad puts the list into the table and what came meanwhile on top.
func (c *Cache) finishLoad(r *resource, l *load, got listed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.loading != l {
		return // another load has taken over, or the resource is gone
	}
	clear(r.bad)
	for _, b := range got.bad {
		c.report(r, b.kv, b.err)
	}
	r.table.Replace(got.items, got.rev)
	var changes []Change
	for _, e := range r.pending {
		if e.KV.ModRev > got.rev {
			changes = c.change(r, e, changes)
		}
	}
	r.table.Apply(changes, max(got.rev, c.fed))
	r.loading, r.pending = nil, nil
	c.refreshed(r)
}
