// Package mem is the store in memory: every revision since the last
// compaction, watches from any of them, keys that expire by the standard
// clock. It reads and writes nothing outside the process and starts no
// goroutine, so a whole control plane on top of it runs inside
// testing/synctest.
package mem

import (
	"context"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"

	"skiff.dev/skiff/internal/store"
)

// version is one state of a key.
type version struct {
	kv      store.KV
	deleted bool
}

// entry is one key with its history, oldest first.
type entry struct {
	key      string
	versions []version
	expiry   *bucket // where the latest version expires, if at all
}

func (e *entry) latest() *version { return &e.versions[len(e.versions)-1] }

// at returns the state at rev, or nil if the key was not there.
func (e *entry) at(rev int64) *store.KV {
	v := e.latest()
	if v.kv.ModRev > rev {
		i := sort.Search(len(e.versions), func(i int) bool { return e.versions[i].kv.ModRev > rev })
		if i == 0 {
			return nil
		}
		v = &e.versions[i-1]
	}
	if v.deleted {
		return nil
	}
	return &v.kv
}

// Store is a store.Store in memory.
type Store struct {
	mu        sync.RWMutex
	closed    bool
	rev       int64 // last revision committed; like etcd's, it starts at 1
	compacted int64 // reads and watches below it fail
	keys      map[string]*entry
	order     *btree.BTreeG[*entry]
	log       []event // every change at or after compacted, in order
	size      int64
	watchers  map[string]map[*watcher]struct{} // by prefix
	buckets   map[int64]*bucket                // by expiry, in units of their granularity
}

// event is one change in the log, with the key it happened to.
type event struct {
	store.Event
	entry *entry
}

var _ store.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{
		rev:      1,
		keys:     map[string]*entry{},
		order:    btree.NewG(32, func(a, b *entry) bool { return a.key < b.key }),
		watchers: map[string]map[*watcher]struct{}{},
		buckets:  map[int64]*bucket{},
	}
}

// readable says whether the state at rev can be had; the caller holds mu.
func (s *Store) readable(ctx context.Context, rev int64) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.closed:
		return store.ErrClosed
	case rev > s.rev:
		return store.ErrFutureRevision
	case rev != 0 && rev < s.compacted:
		return store.ErrCompacted
	}
	return nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, rev int64) (store.KV, bool, int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.readable(ctx, rev); err != nil {
		return store.KV{}, false, 0, err
	}
	if rev == 0 {
		rev = s.rev
	}
	if e := s.keys[key]; e != nil {
		if kv := e.at(rev); kv != nil {
			return *kv, true, s.rev, nil
		}
	}
	return store.KV{}, false, s.rev, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.readable(ctx, opts.Rev); err != nil {
		return store.Page{}, err
	}
	page := store.Page{Rev: opts.Rev}
	if page.Rev == 0 {
		page.Rev = s.rev
	}
	from := &entry{key: max(prefix, opts.After)}
	s.order.AscendGreaterOrEqual(from, func(e *entry) bool {
		if !strings.HasPrefix(e.key, prefix) {
			return e.key < prefix
		}
		if opts.After != "" && e.key <= opts.After {
			return true
		}
		kv := e.at(page.Rev)
		if kv == nil {
			return true
		}
		if opts.Limit > 0 && int64(len(page.KVs)) == opts.Limit {
			page.Remaining++
			return true
		}
		page.KVs = append(page.KVs, *kv)
		return true
	})
	page.More = page.Remaining > 0
	return page, nil
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, txn store.Txn) (store.Result, error) {
	if err := txn.Validate(); err != nil {
		return store.Result{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(ctx, 0); err != nil {
		return store.Result{}, err
	}
	if !s.holds(txn.If) {
		return store.Result{Rev: s.rev, Now: s.present(txn.If)}, nil
	}
	first := len(s.log)
	for _, op := range txn.Do {
		s.apply(op)
	}
	s.finish(first)
	return store.Result{OK: true, Rev: s.rev}, nil
}

func (s *Store) holds(conds []store.Cond) bool {
	for _, c := range conds {
		var modRev int64
		if e := s.keys[c.Key]; e != nil && !e.latest().deleted {
			modRev = e.latest().kv.ModRev
		}
		if modRev != c.ModRev {
			return false
		}
	}
	return true
}

func (s *Store) present(conds []store.Cond) []store.KV {
	var now []store.KV
	for _, c := range conds {
		if e := s.keys[c.Key]; e != nil && !e.latest().deleted {
			now = append(now, e.latest().kv)
		}
	}
	return now
}

// apply makes one change at the revision after the current one.
func (s *Store) apply(op store.Op) {
	e := s.keys[op.Key]
	exists := e != nil && !e.latest().deleted
	if op.Delete && !exists {
		return
	}
	if e == nil {
		e = &entry{key: op.Key}
		s.keys[op.Key] = e
		s.order.ReplaceOrInsert(e)
	}
	v := version{kv: store.KV{Key: e.key, ModRev: s.rev + 1}, deleted: op.Delete}
	if !op.Delete {
		v.kv.Value = op.Value
		v.kv.CreateRev = v.kv.ModRev
		if exists {
			v.kv.CreateRev = e.latest().kv.CreateRev
		}
	}
	s.leave(e)
	if op.TTL > 0 && !op.Delete {
		s.join(e, op.TTL)
	}
	e.versions = append(e.versions, v)
	s.log = append(s.log, event{Event: store.Event{KV: v.kv, Delete: op.Delete}, entry: e})
	s.size += footprint(v.kv)
}

// finish commits the changes logged since first, if any, and wakes who watches them.
func (s *Store) finish(first int) {
	if len(s.log) == first {
		return
	}
	s.rev++
	for _, ev := range s.log[first:] {
		for prefix, set := range s.watchers {
			if !strings.HasPrefix(ev.KV.Key, prefix) {
				continue
			}
			for w := range set {
				w.saw(ev.KV.ModRev)
			}
		}
	}
}

// Revision implements store.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.readable(ctx, 0); err != nil {
		return 0, err
	}
	return s.rev, nil
}

// Compact implements store.Store.
func (s *Store) Compact(ctx context.Context, rev int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev <= s.compacted && ctx.Err() == nil && !s.closed {
		return nil
	}
	if err := s.readable(ctx, rev); err != nil {
		return err
	}
	s.compacted = rev
	cut := sort.Search(len(s.log), func(i int) bool { return s.log[i].KV.ModRev >= rev })
	for _, ev := range s.log[:cut] {
		s.prune(ev.entry)
	}
	// A fresh slice, so that the forgotten values can be collected.
	s.log = append(make([]event, 0, len(s.log)-cut+cap(s.log)/4), s.log[cut:]...)
	return nil
}

// prune drops the versions of a key that no readable revision shows.
func (s *Store) prune(e *entry) {
	if len(e.versions) == 0 {
		return // pruned away by an earlier event of the same compaction
	}
	// The last version at or before compacted is the one that revision shows.
	keep := sort.Search(len(e.versions), func(i int) bool { return e.versions[i].kv.ModRev > s.compacted })
	if keep > 0 && !e.versions[keep-1].deleted {
		keep--
	}
	for _, v := range e.versions[:keep] {
		s.size -= footprint(v.kv)
	}
	if keep == len(e.versions) {
		e.versions = nil
		delete(s.keys, e.key)
		s.order.Delete(e)
		return
	}
	if keep > 0 {
		e.versions = append([]version(nil), e.versions[keep:]...)
	}
}

// footprint is about what a version costs: its bytes and its bookkeeping.
func footprint(kv store.KV) int64 { return int64(len(kv.Key)+len(kv.Value)) + 192 }

// Size implements store.Store.
func (s *Store) Size(ctx context.Context) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.readable(ctx, 0); err != nil {
		return 0, err
	}
	return s.size, nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, b := range s.buckets {
		b.timer.Stop()
	}
	for _, set := range s.watchers {
		for w := range set {
			w.signal()
		}
	}
	return nil
}

// bucket holds the keys that expire together.
type bucket struct {
	id    int64
	keys  map[*entry]struct{}
	timer *time.Timer
}

// granularity is the span of expiry times that share a bucket: fine for short
// lives, at most the minute that store.Op allows.
func granularity(ttl time.Duration) time.Duration {
	return min(max(ttl/16, time.Second), time.Minute)
}

// join makes the key expire ttl from now, or up to one granularity later.
func (s *Store) join(e *entry, ttl time.Duration) {
	now := time.Now()
	at := now.Add(ttl + granularity(ttl) - 1).Truncate(granularity(ttl))
	id := at.UnixNano()
	b := s.buckets[id]
	if b == nil {
		b = &bucket{id: id, keys: map[*entry]struct{}{}}
		b.timer = time.AfterFunc(at.Sub(now), func() { s.expire(b) })
		s.buckets[id] = b
	}
	b.keys[e] = struct{}{}
	e.expiry = b
}

// leave takes the key out of its bucket; an empty bucket costs no timer.
func (s *Store) leave(e *entry) {
	b := e.expiry
	if b == nil {
		return
	}
	e.expiry = nil
	delete(b.keys, e)
	if len(b.keys) == 0 && s.buckets[b.id] == b {
		b.timer.Stop()
		delete(s.buckets, b.id)
	}
}

// expire deletes the keys of a bucket in one revision.
func (s *Store) expire(b *bucket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.buckets[b.id] != b {
		return
	}
	delete(s.buckets, b.id)
	gone := make([]string, 0, len(b.keys))
	for e := range b.keys {
		gone = append(gone, e.key)
	}
	sort.Strings(gone) // the same run gives the same history
	first := len(s.log)
	for _, key := range gone {
		s.apply(store.Op{Key: key, Delete: true})
	}
	s.finish(first)
}
