package store

import (
	"context"
	"log/slog"
	"strconv"
	"time"
)

// compactKey is where API servers that share a store agree on who compacts;
// kube-apiserver uses the same key the same way.
const compactKey = "compact_rev_key"

// History bounds the history of a store.
type History struct {
	Store Store
	// Keep is how much history stays readable, give or take as much again.
	Keep time.Duration
	// Shared says that other processes may compact the store too. They agree
	// over a key in it, as kube-apiservers do.
	Shared bool
	Log    *slog.Logger
}

// Run compacts until the context ends. A store that does not change is left alone.
func (h History) Run(ctx context.Context) {
	tick := time.NewTicker(h.Keep)
	defer tick.Stop()
	var last, lock int64 // the revision a period ago; when the shared key was last seen to change
	for first := true; ; first = false {
		if !first {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		now, err := h.round(ctx, last, &lock)
		if err != nil {
			if ctx.Err() == nil {
				h.Log.Warn("compacting the store failed; trying again later", "revision", last, "err", err)
			}
			continue
		}
		last = now
	}
}

// round forgets what is before rev, if this process is the one to do it, and
// returns the revision that the next round may forget up to.
func (h History) round(ctx context.Context, rev int64, lock *int64) (int64, error) {
	now, err := h.Store.Revision(ctx)
	if err != nil {
		return 0, err
	}
	if h.Shared {
		res, err := h.Store.Commit(ctx, Txn{
			If: []Cond{{Key: compactKey, ModRev: *lock}},
			Do: []Op{{Key: compactKey, Value: []byte(strconv.FormatInt(now, 10))}},
		})
		if err != nil {
			return 0, err
		}
		if !res.OK {
			// Another process had this turn; look again in a period.
			*lock = 0
			for _, kv := range res.Now {
				*lock = kv.ModRev
			}
			return now, nil
		}
		*lock = res.Rev
	}
	if rev == 0 || rev == now {
		return now, nil
	}
	return now, h.Store.Compact(ctx, rev)
}
