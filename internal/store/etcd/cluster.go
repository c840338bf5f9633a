package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"skiff.dev/skiff/internal/store"
)

// ClusterConfig describes an etcd elsewhere. Endpoints is required.
type ClusterConfig struct {
	// Endpoints are the members' client URLs: https://host:port, unix:///path,
	// or http://host:port, which protects nothing.
	Endpoints []string
	// TLS is used for https endpoints. The files are read again when they change.
	TLS Files
	// RequestTimeout bounds every request. Default 10 s.
	RequestTimeout time.Duration
	// KeepHistory is how long old revisions stay readable; who compacts is
	// agreed with other API servers. Default 5 min; negative: leave it to others.
	KeepHistory time.Duration
	// Log takes the client's messages. Default: slog's.
	Log *slog.Logger
}

func (c *ClusterConfig) setDefaults() {
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 10 * time.Second
	}
	if c.KeepHistory == 0 {
		c.KeepHistory = 5 * time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// cluster is an etcd reached over gRPC.
type cluster struct {
	cfg    ClusterConfig
	client *clientv3.Client
	kv     pb.KVClient
	lease  pb.LeaseClient
	closed chan struct{}
	nextID atomic.Int64
}

// Dial connects to an etcd and returns when it answers.
func Dial(ctx context.Context, cfg ClusterConfig) (*Store, error) {
	cfg.setDefaults()
	conf := clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          cfg.RequestTimeout,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		MaxCallSendMsgSize:   16 << 20,
		Logger:               zap.New(&slogCore{log: cfg.Log.With("component", "etcd client")}),
	}
	for _, endpoint := range cfg.Endpoints {
		if strings.HasPrefix(endpoint, "https://") && conf.TLS == nil {
			var err error
			if conf.TLS, err = cfg.TLS.Client(); err != nil {
				return nil, fmt.Errorf("TLS files for etcd: %w", err)
			}
		}
	}
	client, err := clientv3.New(conf)
	if err != nil {
		return nil, store.Unavailable("connecting to etcd at "+strings.Join(cfg.Endpoints, ", "), err)
	}
	c := &cluster{cfg: cfg, client: client, kv: clientv3.RetryKVClient(client), lease: clientv3.RetryLeaseClient(client), closed: make(chan struct{})}
	s := newStore(c, c.closed, false)
	if _, err := s.Revision(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("connecting to etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	if cfg.KeepHistory > 0 {
		s.keepHistory(store.History{Keep: cfg.KeepHistory, Shared: true, Log: cfg.Log})
	}
	return s, nil
}

func (c *cluster) broken() error { return nil }

// bounded gives a request its deadline.
func (c *cluster) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.cfg.RequestTimeout)
}

func (c *cluster) rangeKeys(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return c.kv.Range(ctx, r, unlimited)
}

func (c *cluster) txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return c.kv.Txn(ctx, r, unlimited)
}

func (c *cluster) compact(ctx context.Context, r *pb.CompactionRequest) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	_, err := c.kv.Compact(ctx, r)
	return err
}

func (c *cluster) grant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return c.lease.LeaseGrant(ctx, r)
}

// unlimited lifts gRPC's cap of 4 MiB on answers; a list may be larger.
var unlimited = grpc.MaxCallRecvMsgSize(1 << 30)

// size returns the largest member's.
func (c *cluster) size(ctx context.Context) (int64, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var size int64
	var errs []error
	for _, endpoint := range c.client.Endpoints() {
		status, err := c.client.Status(ctx, endpoint)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		size = max(size, status.DbSize)
	}
	if size == 0 {
		return 0, errors.Join(errs...)
	}
	return size, nil
}

func (c *cluster) close() error {
	if err := c.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("closing the connection to etcd: %w", err)
	}
	return nil
}

// clusterWatch is a watch over a gRPC stream of its own: a progress notice is
// for the whole stream, and a full one must not hold up others.
type clusterWatch struct {
	c       *cluster
	ctx     context.Context // the stream's
	cancel  context.CancelFunc
	ch      clientv3.WatchChan
	closing sync.Once

	progress *progress
}

func (c *cluster) watch(ctx context.Context, key, end []byte, start int64) (store.Watcher, error) {
	stream, cancel := context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	stream = metadata.AppendToOutgoingContext(stream, "skiff-watch", strconv.FormatInt(c.nextID.Add(1), 10))
	// Until the watch stands, the caller's context counts.
	deadline, stopTimer := c.bounded(ctx)
	defer stopTimer()
	release := context.AfterFunc(deadline, cancel)
	opts := []clientv3.OpOption{clientv3.WithRange(string(end)), clientv3.WithRev(start), clientv3.WithFragment(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify()}
	w := &clusterWatch{c: c, ctx: stream, cancel: cancel, progress: newProgress()}
	w.ch = c.client.Watch(stream, string(key), opts...)
	var created clientv3.WatchResponse
	select {
	case created = <-w.ch:
	case <-stream.Done():
	}
	if !release() {
		cancel()
		return nil, deadline.Err()
	}
	if err := created.Err(); err != nil && created.CompactRevision == 0 {
		cancel()
		return nil, err
	}
	if created.CompactRevision != 0 {
		ended := make(chan clientv3.WatchResponse, 1)
		ended <- created
		w.ch = ended
	}
	return w, nil
}

// Next implements store.Watcher.
func (w *clusterWatch) Next(ctx context.Context) (store.Batch, error) {
	for {
		if err := w.ended(ctx); err != nil {
			return store.Batch{}, err
		}
		var retry <-chan time.Time
		if w.progress.wanted.Load() {
			// etcd drops the request while the watch lags, so it is repeated.
			if err := w.askProgress(ctx); err != nil {
				return store.Batch{}, err
			}
			retry = time.After(resync)
		}
		select {
		case resp, ok := <-w.ch:
			if ok && len(resp.Events) == 0 && !resp.IsProgressNotify() && resp.Err() == nil {
				continue // "created" of a stream that was opened anew
			}
			return w.batch(ctx, resp, ok)
		case <-w.progress.poke:
		case <-retry:
		case <-ctx.Done():
		case <-w.ctx.Done():
		case <-w.c.closed:
		}
	}
}

// askProgress sends the request on the watch's stream.
func (w *clusterWatch) askProgress(ctx context.Context) error {
	stream, cancel := context.WithCancel(w.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	err := w.c.client.RequestProgress(stream)
	if err == nil {
		return nil
	}
	if ended := w.ended(ctx); ended != nil {
		return ended
	}
	return translate("asking etcd for progress", err)
}

func (w *clusterWatch) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-w.ctx.Done():
		return store.ErrClosed
	case <-w.c.closed:
		return store.ErrClosed
	default:
		return nil
	}
}

func (w *clusterWatch) batch(ctx context.Context, resp clientv3.WatchResponse, ok bool) (store.Batch, error) {
	if !ok {
		if err := w.ended(ctx); err != nil {
			return store.Batch{}, err
		}
		return store.Batch{}, store.Unavailable("watching etcd", errors.New("the stream ended"))
	}
	if err := resp.Err(); err != nil {
		return store.Batch{}, translate("watching etcd", err)
	}
	if len(resp.Events) == 0 {
		w.progress.told()
		return store.Batch{Rev: resp.Header.Revision}, nil
	}
	return toEvents(resp.Events), nil
}

// RequestProgress implements store.Watcher.
func (w *clusterWatch) RequestProgress(ctx context.Context) error {
	if err := w.ended(ctx); err != nil {
		return err
	}
	w.progress.ask()
	return nil
}

// Close implements store.Watcher.
func (w *clusterWatch) Close() { w.closing.Do(w.cancel) }
