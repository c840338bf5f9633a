// Package etcd is the store on etcd: Open runs one member inside the process,
// without ports, on its own data directory; Dial uses an etcd cluster
// elsewhere. It reads and writes the member's data directory or the network,
// and hands etcd's own log to slog.
package etcd

import (
	"context"
	"errors"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	servererrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"skiff.dev/skiff/internal/store"
)

// engine is an etcd that takes requests: a member in the process or a cluster
// elsewhere. Errors are etcd's own; Store translates them.
type engine interface {
	rangeKeys(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error)
	txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error)
	compact(ctx context.Context, r *pb.CompactionRequest) error
	grant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error)
	// watch delivers what happens in [key, end) from revision start on (0: now).
	watch(ctx context.Context, key, end []byte, start int64) (store.Watcher, error)
	size(ctx context.Context) (int64, error)
	// broken returns why no request can be served any more, or nil.
	broken() error
	close() error
}

// Store is a store.Store on etcd.
type Store struct {
	engine engine
	leases leases
	// serializable marks that a read by the engine alone is linearizable, as
	// it is where one member holds everything.
	serializable bool

	closing   sync.Once
	closed    chan struct{}
	closeErr  error
	stopTasks context.CancelFunc
	tasks     sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

func newStore(e engine, closed chan struct{}, serializable bool) *Store {
	s := &Store{engine: e, closed: closed, serializable: serializable}
	s.leases.grant = e.grant
	return s
}

// keepHistory compacts in the background until Close.
func (s *Store) keepHistory(h store.History) {
	ctx, cancel := context.WithCancel(context.Background())
	s.stopTasks = cancel
	h.Store = s
	s.tasks.Go(func() { h.Run(ctx) })
}

// ready reports why a request need not be tried.
func (s *Store) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.closed:
		return store.ErrClosed
	default:
		return s.engine.broken()
	}
}

// fail translates an error of etcd's.
func (s *Store) fail(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case <-s.closed:
		return store.ErrClosed
	default:
	}
	if broken := s.engine.broken(); broken != nil {
		return broken
	}
	return translate(doing, err)
}

// translate gives an error of etcd's, the server's own or one that came over
// gRPC, the meaning that the store's callers know.
func translate(doing string, err error) error {
	if errors.Is(err, store.ErrNoSpace) {
		return err
	}
	remote := rpctypes.Error(err)
	for _, known := range []struct {
		is   []error
		mean error
	}{
		{[]error{mvcc.ErrCompacted, rpctypes.ErrCompacted}, store.ErrCompacted},
		{[]error{mvcc.ErrFutureRev, rpctypes.ErrFutureRev}, store.ErrFutureRevision},
		{[]error{servererrors.ErrNoSpace, rpctypes.ErrNoSpace}, store.ErrNoSpace},
		{[]error{servererrors.ErrRequestTooLarge, rpctypes.ErrRequestTooLarge, rpctypes.ErrTooManyOps}, store.ErrTooLarge},
	} {
		for _, is := range known.is {
			if errors.Is(err, is) || errors.Is(remote, is) {
				return known.mean
			}
		}
	}
	return store.Unavailable(doing, remote)
}

// leaseGone says that a write named a lease that has ended.
func leaseGone(err error) bool {
	return errors.Is(err, lease.ErrLeaseNotFound) || errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound)
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, rev int64) (store.KV, bool, int64, error) {
	if err := s.ready(ctx); err != nil {
		return store.KV{}, false, 0, err
	}
	resp, err := s.engine.rangeKeys(ctx, &pb.RangeRequest{Key: []byte(key), Revision: rev, Serializable: s.serializable})
	if err != nil {
		return store.KV{}, false, 0, s.fail(ctx, "reading from etcd", err)
	}
	if len(resp.Kvs) == 0 {
		return store.KV{}, false, resp.Header.Revision, nil
	}
	return fromKV(resp.Kvs[0]), true, resp.Header.Revision, nil
}

// fromKV converts without copying the value, which nobody changes.
func fromKV(kv *mvccpb.KeyValue) store.KV {
	return store.KV{Key: string(kv.Key), Value: kv.Value, ModRev: kv.ModRevision, CreateRev: kv.CreateRevision}
}

// span returns etcd's range for the keys under prefix later than after.
func span(prefix, after string) (key, end []byte) {
	key, end = []byte(prefix), prefixEnd(prefix)
	switch {
	case after != "" && after >= prefix:
		key = append([]byte(after), 0)
	case prefix == "":
		key = []byte{0}
	}
	return key, end
}

// prefixEnd returns the end of the range of keys under prefix; {0} means no end.
func prefixEnd(prefix string) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := []byte(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return []byte{0}
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	if err := s.ready(ctx); err != nil {
		return store.Page{}, err
	}
	key, end := span(prefix, opts.After)
	resp, err := s.engine.rangeKeys(ctx, &pb.RangeRequest{Key: key, RangeEnd: end, Revision: opts.Rev, Limit: opts.Limit, Serializable: s.serializable})
	if err != nil {
		return store.Page{}, s.fail(ctx, "listing from etcd", err)
	}
	page := store.Page{Rev: opts.Rev}
	if page.Rev == 0 {
		page.Rev = resp.Header.Revision
	}
	if n := len(resp.Kvs); n > 0 {
		page.KVs = make([]store.KV, n)
		for i, kv := range resp.Kvs {
			page.KVs[i] = fromKV(kv)
		}
	}
	page.Remaining = max(resp.Count-int64(len(page.KVs)), 0)
	page.More = page.Remaining > 0
	return page, nil
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, txn store.Txn) (store.Result, error) {
	if err := txn.Validate(); err != nil {
		return store.Result{}, err
	}
	if err := s.ready(ctx); err != nil {
		return store.Result{}, err
	}
	const attempts = 3 // a lease may expire between being granted and being used
	for attempt := 1; ; attempt++ {
		req, err := s.request(ctx, txn)
		if err != nil {
			return store.Result{}, s.fail(ctx, "granting a lease in etcd", err)
		}
		resp, err := s.engine.txn(ctx, req)
		if err == nil {
			return fromTxn(resp), nil
		}
		if leaseGone(err) && attempt < attempts {
			s.leases.forget()
			continue
		}
		return store.Result{}, s.fail(ctx, "writing to etcd", err)
	}
}

func (s *Store) request(ctx context.Context, txn store.Txn) (*pb.TxnRequest, error) {
	req := &pb.TxnRequest{Success: make([]*pb.RequestOp, 0, len(txn.Do))}
	for _, c := range txn.If {
		key := []byte(c.Key)
		req.Compare = append(req.Compare, &pb.Compare{
			Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: c.ModRev},
		})
		req.Failure = append(req.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key, Serializable: s.serializable}}})
	}
	for _, op := range txn.Do {
		if op.Delete {
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(op.Key)}}})
			continue
		}
		put := &pb.PutRequest{Key: []byte(op.Key), Value: op.Value}
		if op.TTL > 0 {
			lease, err := s.leases.get(ctx, op.TTL)
			if err != nil {
				return nil, err
			}
			put.Lease = lease
		}
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	if len(req.Success) == 0 && len(req.Compare) == 0 {
		// etcd wants something to do: read a key that cannot exist.
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte{0}}}})
	}
	return req, nil
}

func fromTxn(resp *pb.TxnResponse) store.Result {
	res := store.Result{OK: resp.Succeeded, Rev: resp.Header.Revision}
	if resp.Succeeded {
		return res
	}
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			res.Now = append(res.Now, fromKV(kv))
		}
	}
	return res
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	key, end := span(prefix, "")
	start := from + 1
	if from == 0 {
		start = 0
	}
	w, err := s.engine.watch(ctx, key, end, start)
	if err != nil {
		return nil, s.fail(ctx, "watching etcd", err)
	}
	return w, nil
}

// toEvents converts a response's events and returns the revision they reach.
// That is the last event's: the one in etcd's header may be ahead of what a
// lagging watch has been sent.
func toEvents(events []*mvccpb.Event) store.Batch {
	b := store.Batch{Events: make([]store.Event, len(events))}
	for i, ev := range events {
		if ev.Type == mvccpb.Event_DELETE {
			b.Events[i] = store.Event{KV: store.KV{Key: string(ev.Kv.Key), ModRev: ev.Kv.ModRevision}, Delete: true}
		} else {
			b.Events[i] = store.Event{KV: fromKV(ev.Kv)}
		}
		b.Rev = ev.Kv.ModRevision
	}
	return b
}

// Revision implements store.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	_, _, now, err := s.Get(ctx, "\x00", 0)
	return now, err
}

// Compact implements store.Store.
func (s *Store) Compact(ctx context.Context, rev int64) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.engine.compact(ctx, &pb.CompactionRequest{Revision: rev}); err != nil {
		if err = s.fail(ctx, "compacting etcd", err); !errors.Is(err, store.ErrCompacted) {
			return err
		}
	}
	return nil
}

// Size implements store.Store.
func (s *Store) Size(ctx context.Context) (int64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	size, err := s.engine.size(ctx)
	if err != nil {
		return 0, s.fail(ctx, "asking etcd for its size", err)
	}
	return size, nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		if s.stopTasks != nil {
			s.stopTasks()
		}
		s.tasks.Wait()
		s.closeErr = s.engine.close()
	})
	return s.closeErr
}
