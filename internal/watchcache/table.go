package watchcache

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"

	"skiff.dev/skiff/internal/meta"
)

// degree of the trees: nodes of up to 31 items. Larger ones make writes after
// a snapshot copy more, smaller ones make reads follow more pointers.
const degree = 16

// Table holds the objects of one resource. One goroutine may write (Replace,
// Apply, Progress, Close); everything else is safe for concurrent use.
type Table struct {
	name        string
	maxEvents   int
	maxAge      time.Duration
	clock       *clock
	sharedClock bool
	ready       chan struct{}
	closed      chan struct{}
	detector    *detector

	mu      sync.RWMutex
	loaded  bool
	applied int64 // all changes up to it are in the tree
	tree    *btree.BTreeG[*Item]
	indexes []*index
	snap    *Snapshot // of the present state, or nil

	ring    queue
	nextSeq int64
	// oldest is the revision after which all events are in the ring.
	oldest int64
	// past is how many events at the start of the ring come from history; they
	// are allowed on top of maxEvents.
	past   int
	gaps   []gap
	topics map[Scope]*topic
	dirty  []*topic // to be woken when the lock is released
}

// NewTable returns an empty table that has not been loaded yet. The name is
// for people.
func NewTable(name string, opts ...Option) *Table {
	t := &Table{
		name:      name,
		maxEvents: DefaultEvents,
		maxAge:    DefaultAge,
		clock:     new(clock),
		ready:     make(chan struct{}),
		closed:    make(chan struct{}),
		tree:      btree.NewG(degree, lessItem),
		topics:    map[Scope]*topic{},
	}
	for _, o := range opts {
		o(t)
	}
	return t
}

func lessItem(a, b *Item) bool { return compareKeys(a.key, b.key) < 0 }

func compareKeys(a, b meta.Key) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// Name returns the name that the table was made with.
func (t *Table) Name() string { return t.name }

// Ready is closed once the table has been loaded.
func (t *Table) Ready() <-chan struct{} { return t.ready }

// Rev returns the revision up to which all changes are in the table; 0 before
// it is loaded.
func (t *Table) Rev() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rev()
}

// rev is Rev for those who hold the lock.
func (t *Table) rev() int64 {
	if !t.loaded {
		return 0
	}
	return max(t.applied, t.clock.now())
}

// WaitFor returns once the table is loaded and has reached rev.
func (t *Table) WaitFor(ctx context.Context, rev int64) error {
	select {
	case <-t.ready:
	case <-t.closed:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.Rev() >= rev {
		return nil
	}
	return t.clock.wait(ctx, rev, t.closed)
}

// Len returns the number of objects.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Len()
}

// Get returns the newest state of an object.
func (t *Table) Get(key meta.Key) (*Item, bool) {
	probe := &Item{key: key}
	t.mu.RLock()
	item, ok := t.tree.Get(probe)
	t.mu.RUnlock()
	if ok {
		t.detector.check(item)
	}
	return item, ok
}

// Progress tells the table that all changes up to rev have been applied.
func (t *Table) Progress(rev int64) { t.Apply(nil, rev) }

// Apply takes changes in the order in which they happened; with them, all
// changes up to rev are known. Watchers see them at once. A change that the
// table already has is skipped.
func (t *Table) Apply(changes []Change, rev int64) {
	t.mu.Lock()
	now := time.Now().UnixNano()
	for _, c := range changes {
		t.change(c, now)
	}
	t.applied = max(t.applied, rev)
	t.trim(now)
	t.unlockAndWake()
	if !t.sharedClock {
		t.clock.advance(rev)
	}
}

func (t *Table) change(c Change, now int64) {
	if c.Object == nil {
		if old, ok := t.tree.Get(&Item{key: c.Key}); ok && old.Rev < c.Rev {
			t.remove(old, c.Rev, c.Rev, now)
		}
		return
	}
	t.put(&Item{Object: c.Object, Rev: c.Rev, key: meta.KeyOf(c.Object)}, c.Rev, now)
}

// put stores item and emits the event, at rev.
func (t *Table) put(item *Item, rev, now int64) {
	old, had := t.tree.Get(item)
	if had && old.Rev >= item.Rev {
		return
	}
	t.detector.add(item)
	t.tree.ReplaceOrInsert(item)
	for _, ix := range t.indexes {
		ix.replace(old, item)
	}
	t.snap = nil
	if !had {
		t.emit(&Event{Type: Added, Item: item, Rev: rev}, now)
		return
	}
	t.detector.drop(old)
	t.emit(&Event{Type: Modified, Item: item, Prev: old, Rev: rev}, now)
}

// remove takes old out and emits the event, at rev; the final object carries
// version.
func (t *Table) remove(old *Item, version, rev, now int64) {
	t.detector.drop(old)
	t.tree.Delete(old)
	for _, ix := range t.indexes {
		ix.replace(old, nil)
	}
	t.snap = nil
	t.emit(&Event{Type: Deleted, Item: final(old, version), Prev: old, Rev: rev}, now)
}

// final returns the last state of a deleted object, as watchers are told it.
func final(old *Item, version int64) *Item {
	last := meta.Copy(old.Object)
	last.SetResourceVersion(strconv.FormatInt(version, 10))
	return &Item{Object: last, Rev: version, key: old.key}
}

// Replace takes the whole state at rev. The first time it loads the table;
// later, what differs is emitted as events, so that watchers go on without a
// gap: deletions first, with the version that the table had before, then the
// rest in the order of their revisions. Whoever is interrupted in the middle
// of it and resumes from the last version seen gets all of it again or is told
// ErrTooOld, for what happened in between is not known. If rev is older than what the table has, the source has been set back: everything
// starts again and all watchers end with ErrTooOld.
func (t *Table) Replace(items []Item, rev int64) {
	fresh := make([]*Item, len(items))
	for i := range items {
		fresh[i] = &Item{Object: items[i].Object, Rev: items[i].Rev, key: meta.KeyOf(items[i].Object)}
	}
	t.mu.Lock()
	now := time.Now().UnixNano()
	switch {
	case !t.loaded:
		t.load(fresh, rev)
		t.loaded = true
		select {
		case <-t.ready:
		default:
			close(t.ready)
		}
	case rev < t.rev():
		t.cutAll()
		t.load(fresh, rev)
		if !t.sharedClock {
			t.clock.reset(rev)
		}
	default:
		t.diff(fresh, rev, now)
	}
	t.applied = rev
	t.trim(now)
	t.unlockAndWake()
	if !t.sharedClock {
		t.clock.advance(rev)
	}
}

// restart forgets that the table was loaded: its source has been set back.
// All watches end with ErrTooOld; the content stays until it is replaced.
func (t *Table) restart() {
	t.mu.Lock()
	t.loaded, t.applied = false, 0
	t.cutAll()
	t.unlockAndWake()
}

// sweep drops the events that are too old.
func (t *Table) sweep(now time.Time) {
	t.mu.Lock()
	t.trim(now.UnixNano())
	t.mu.Unlock()
}

// load sets the content without events.
func (t *Table) load(items []*Item, rev int64) {
	t.detector.clear()
	slices.SortFunc(items, func(a, b *Item) int { return compareKeys(a.key, b.key) })
	t.tree = btree.NewG(degree, lessItem)
	for _, item := range items {
		t.detector.add(item)
		t.tree.ReplaceOrInsert(item)
	}
	for i, ix := range t.indexes {
		t.indexes[i] = newIndex(ix.Index, t.tree)
	}
	t.snap = nil
	t.ring, t.past, t.gaps = queue{}, 0, nil
	t.oldest = rev
}

// diff turns the present content into items and emits what differs.
func (t *Table) diff(items []*Item, rev, now int64) {
	keep := make(map[meta.Key]*Item, len(items))
	for _, item := range items {
		keep[item.key] = item
	}
	var gone []*Item
	t.tree.Ascend(func(old *Item) bool {
		// Another uid under the same name is another object.
		if item, ok := keep[old.key]; !ok || item.Object.GetUID() != old.Object.GetUID() {
			gone = append(gone, old)
		}
		return true
	})
	before := t.rev()
	if before+1 < rev {
		t.gaps = append(t.gaps, gap{before, rev})
	}
	for _, old := range gone {
		t.remove(old, before, rev, now)
	}
	slices.SortStableFunc(items, func(a, b *Item) int { return int(a.Rev - b.Rev) })
	for _, item := range items {
		t.put(item, rev, now)
	}
}

// EnsureIndex adds an index, unless the table has one of that name.
func (t *Table) EnsureIndex(ix meta.Index) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ensureIndex(ix)
}

func (t *Table) ensureIndex(ix meta.Index) {
	if t.index(ix.Name) == nil {
		t.indexes = append(t.indexes, newIndex(ix, t.tree))
		t.snap = nil
	}
}

func (t *Table) index(name string) *index {
	for _, ix := range t.indexes {
		if ix.Name == name {
			return ix
		}
	}
	return nil
}

// Close ends all watches and waits with ErrClosed. The content stays readable.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.unlockAndWake()
	if t.isClosed() {
		return
	}
	close(t.closed)
	for _, tp := range t.topics {
		t.wakeTopic(tp)
	}
	t.tree.Ascend(func(item *Item) bool { t.detector.check(item); return true })
}

func (t *Table) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}
