package cluster

import (
	"context"
	"errors"
	"sync"

	"skiff.dev/skiff/internal/store"
)

// errKilled is what a process gets from its store once it has been killed.
var errKilled = store.Unavailable("reaching the store", errors.New("this process has been killed"))

// fence is the store as one incarnation of the API server sees it. Once the
// incarnation has been killed nothing of it reaches the store any more, however
// long its goroutines take to find out: that is what kill -9 means. The kill
// may be set to happen inside a commit, which is then made or not made, but
// answered in neither case.
type fence struct {
	store.Store
	mu     sync.Mutex
	dead   bool
	left   int           // commits until the kill, if armed
	armed  bool          // a kill is due
	after  bool          // the last commit is still made
	killed chan struct{} // closed by the kill
	ledger *ledger
}

func newFence(s store.Store, l *ledger) *fence {
	return &fence{Store: s, killed: make(chan struct{}), ledger: l}
}

// kill ends the incarnation now.
func (f *fence) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.die()
}

func (f *fence) die() {
	if !f.dead {
		f.dead = true
		close(f.killed)
	}
}

// killAt ends the incarnation in its n-th commit from now: after it has been
// made if after is true, else instead of it.
func (f *fence) killAt(n int, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.after, f.armed = n, after, true
}

// Commit implements store.Store.
func (f *fence) Commit(ctx context.Context, txn store.Txn) (store.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return store.Result{}, errKilled
	}
	if f.armed {
		if f.left--; f.left <= 0 {
			f.die()
			if f.after {
				_, _ = f.Store.Commit(ctx, txn) // nobody is there to hear of it
			}
			return store.Result{}, errKilled
		}
	}
	res, err := f.Store.Commit(ctx, txn)
	if err == nil && res.OK {
		f.ledger.note(ctx, res.Rev)
	}
	return res, err
}

// alive returns an error once the incarnation has been killed.
func (f *fence) alive() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errKilled
	}
	return nil
}

// Get implements store.Store.
func (f *fence) Get(ctx context.Context, key string, rev int64) (store.KV, bool, int64, error) {
	if err := f.alive(); err != nil {
		return store.KV{}, false, 0, err
	}
	return f.Store.Get(ctx, key, rev)
}

// List implements store.Store.
func (f *fence) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	if err := f.alive(); err != nil {
		return store.Page{}, err
	}
	return f.Store.List(ctx, prefix, opts)
}

// Revision implements store.Store.
func (f *fence) Revision(ctx context.Context) (int64, error) {
	if err := f.alive(); err != nil {
		return 0, err
	}
	return f.Store.Revision(ctx)
}
