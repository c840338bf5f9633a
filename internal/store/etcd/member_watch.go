package etcd

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/storage/mvcc"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff.dev/skiff/internal/store"
)

// resync is how often a watch that lags asks again for its progress notice;
// etcd brings lagging watches up to date in rounds of that length.
const resync = 100 * time.Millisecond

// memberWatch reads the past from the member's database and what follows from
// its own watch stream: no goroutine, no encoding.
type memberWatch struct {
	m      *member
	past   past
	stream mvcc.WatchStream
	done   chan struct{} // closed by Close

	progress *progress
	closing  sync.Once
}

func (m *member) watch(ctx context.Context, key, end []byte, start int64) (store.Watcher, error) {
	w := &memberWatch{m: m, stream: m.srv.Watchable().NewWatchStream(), progress: newProgress(), done: make(chan struct{})}
	w.past = past{key: string(key), end: string(end), next: start, last: start - 1}
	if len(end) == 1 && end[0] == 0 {
		end = []byte{} // the stream's notation for a range without an end
	}
	resumed := start != 0 && start <= m.srv.KV().Rev()
	if resumed {
		start = 0 // the present, whatever it is by then
	}
	if _, err := w.stream.Watch(ctx, clientv3.AutoWatchID, key, end, start); err != nil {
		w.stream.Close()
		return nil, err
	}
	if resumed {
		w.past.last = m.srv.KV().Rev()
	}
	return w, nil
}

// Next implements store.Watcher.
func (w *memberWatch) Next(ctx context.Context) (store.Batch, error) {
	for {
		if err := w.ended(ctx); err != nil {
			return store.Batch{}, err
		}
		if !w.past.done() {
			return w.past.read(w.m)
		}
		select {
		case resp, ok := <-w.stream.Chan():
			return w.batch(resp, ok)
		default:
		}
		// Everything sent is read: a notice asked for now is not lost.
		var retry <-chan time.Time
		if w.progress.wanted.Load() && !w.stream.RequestProgressAll() {
			retry = time.After(resync)
		}
		select {
		case resp, ok := <-w.stream.Chan():
			return w.batch(resp, ok)
		case <-w.progress.poke:
		case <-retry:
		case <-ctx.Done():
		case <-w.done:
		case <-w.m.closed:
		case <-w.m.failed:
		}
	}
}

// ended returns the error that Next has to end with, if any.
func (w *memberWatch) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-w.done:
		return store.ErrClosed
	case <-w.m.closed:
		return store.ErrClosed
	default:
		return w.m.broken()
	}
}

func (w *memberWatch) batch(resp mvcc.WatchResponse, ok bool) (store.Batch, error) {
	switch {
	case !ok:
		return store.Batch{}, store.ErrClosed
	case resp.CompactRevision != 0:
		return store.Batch{}, store.ErrCompacted
	case len(resp.Events) == 0:
		w.progress.told()
		return store.Batch{Rev: resp.Revision}, nil
	}
	// Where the past ends the stream may have begun already.
	events := resp.Events
	for len(events) > 0 && events[0].Kv.ModRevision <= w.past.last {
		events = events[1:]
	}
	if len(events) == 0 {
		return store.Batch{Rev: w.past.last}, nil
	}
	return toEvents(events), nil
}

// RequestProgress implements store.Watcher.
func (w *memberWatch) RequestProgress(ctx context.Context) error {
	if err := w.ended(ctx); err != nil {
		return err
	}
	w.progress.ask()
	return nil
}

// Close implements store.Watcher.
func (w *memberWatch) Close() {
	w.closing.Do(func() {
		close(w.done)
		w.stream.Close()
	})
}
