// Package store keeps bytes under keys at revisions. It is the only door to
// durable state: a flat, ordered key space in which every committed
// transaction gets the next revision, any revision since the last compaction
// can be read, and every change can be watched in order. The model is etcd's;
// store/etcd is etcd (embedded or external), store/mem the same in memory,
// store/storetest the suite that both pass.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrCompacted means the revision asked for is older than the last compaction.
	ErrCompacted = errors.New("store: revision has been compacted")
	// ErrFutureRevision means the revision asked for has not happened yet.
	ErrFutureRevision = errors.New("store: revision is in the future")
	// ErrClosed means the store has been closed.
	ErrClosed = errors.New("store: closed")
	// ErrNoSpace means the store refuses writes until space is made (quota, full disk).
	ErrNoSpace = errors.New("store: out of space")
	// ErrUnavailable means no answer can be had now (no quorum, no connection);
	// a write that ends with it may or may not have happened.
	ErrUnavailable = errors.New("store: unavailable")
	// ErrTooLarge means the transaction is bigger than the store takes in one
	// piece; nothing of it happened.
	ErrTooLarge = errors.New("store: transaction is too large")
)

// KV is one key at one revision. Value must not be changed by anyone.
type KV struct {
	Key   string
	Value []byte
	// ModRev is the revision of the last change, CreateRev of the creation.
	ModRev, CreateRev int64
}

// ListOptions narrows a List.
type ListOptions struct {
	// Rev asks for the state at that revision; 0 for the latest.
	Rev int64
	// After skips keys up to and including it; "" starts at the prefix.
	After string
	// Limit caps the number of KVs returned; 0 for no cap.
	Limit int64
}

// Page is the answer to a List.
type Page struct {
	KVs []KV
	// Rev is the revision that the page shows.
	Rev int64
	// More says that Limit cut the page short; Remaining counts what is left.
	More      bool
	Remaining int64
}

// Op is one change in a transaction.
type Op struct {
	Key    string
	Value  []byte // ignored for a delete
	Delete bool
	// TTL > 0 lets the key expire that long after the commit, give or take a
	// minute: keys of about the same expiry share a lease.
	TTL time.Duration
}

// Cond is a condition on one key: it must have been last changed at ModRev.
// ModRev 0 means that the key must not exist.
type Cond struct {
	Key    string
	ModRev int64
}

// Txn is a set of changes that happens whole, in one revision, if all
// conditions hold. No key may be changed twice.
type Txn struct {
	If []Cond
	Do []Op
}

// Validate reports a transaction that no store can carry out.
func (t Txn) Validate() error {
	for _, c := range t.If {
		if c.Key == "" {
			return errors.New("store: condition on an empty key")
		}
	}
	for i, op := range t.Do {
		if op.Key == "" {
			return errors.New("store: change of an empty key")
		}
		if len(t.Do) <= 8 {
			for _, other := range t.Do[:i] {
				if other.Key == op.Key {
					return fmt.Errorf("store: key %q is changed twice in one transaction", op.Key)
				}
			}
		}
	}
	if len(t.Do) > 8 {
		seen := make(map[string]struct{}, len(t.Do))
		for _, op := range t.Do {
			if _, twice := seen[op.Key]; twice {
				return fmt.Errorf("store: key %q is changed twice in one transaction", op.Key)
			}
			seen[op.Key] = struct{}{}
		}
	}
	return nil
}

// Result is the answer to a Commit.
type Result struct {
	// OK says that the conditions held and the changes were made.
	OK bool
	// Rev is the revision of the changes; if not OK, the revision at which the
	// conditions were looked at.
	Rev int64
	// Now holds, if not OK, the present state of each key in Txn.If that
	// exists, so that a caller can retry without a read.
	Now []KV
}

// Event is one change seen by a watch.
type Event struct {
	// KV is the new state; for a delete only Key and ModRev are set.
	KV     KV
	Delete bool
}

// Batch is what a watch delivers: all events of one or more whole revisions,
// in order. A batch without events is a progress notice.
type Batch struct {
	Events []Event
	// Rev: everything up to and including it has been delivered.
	Rev int64
}

// Watcher delivers batches until it is closed or fails.
type Watcher interface {
	// Next blocks for the next batch. It returns ErrCompacted when the start
	// revision is gone, the context's error, or a wrapped ErrUnavailable/ErrClosed.
	Next(ctx context.Context) (Batch, error)
	// RequestProgress asks for a progress notice at (or after) the revision
	// current at the time of the call; it does not wait for it.
	RequestProgress(ctx context.Context) error
	Close()
}

// Store is safe for concurrent use.
type Store interface {
	// Get returns the key at rev (0: latest, linearizable), found or not, and
	// the store's revision at the time.
	Get(ctx context.Context, key string, rev int64) (kv KV, found bool, now int64, err error)
	// List returns the keys that start with prefix in order. With Rev 0 it is
	// linearizable; several pages with the Rev of the first are one snapshot.
	List(ctx context.Context, prefix string, opts ListOptions) (Page, error)
	// Commit tries the transaction once.
	Commit(ctx context.Context, txn Txn) (Result, error)
	// Watch delivers all changes under prefix after the revision from (that is,
	// from+1 is the first that can be seen). from 0 means from now on.
	Watch(ctx context.Context, prefix string, from int64) (Watcher, error)
	// Revision returns the current revision, linearizable.
	Revision(ctx context.Context) (int64, error)
	// Compact forgets history before rev. Idempotent.
	Compact(ctx context.Context, rev int64) error
	// Size returns the bytes that the store takes on disk (or in memory).
	Size(ctx context.Context) (int64, error)
	// Close ends all watches with ErrClosed and releases everything.
	Close() error
}

// Unavailable wraps err so that errors.Is(_, ErrUnavailable) holds.
func Unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}
