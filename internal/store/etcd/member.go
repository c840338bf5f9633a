package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"skiff.dev/skiff/internal/store"
)

// Config describes a member inside the process. Dir is required.
type Config struct {
	// Dir is the member's data directory; it is made if absent, mode 0700.
	Dir string
	// Name is the member's name in the cluster. Default "default", as etcd's.
	Name string
	// Quota caps what the database holds, bytes; deleting and compacting makes
	// room again. Default 8 GiB.
	Quota int64
	// MinFree is the space that the file system must have left for a write
	// that adds something, bytes. Default 160 MiB: room for etcd's next log
	// segments, without which it cannot even delete.
	MinFree int64
	// KeepHistory is how long old revisions stay readable. Default 5 min; negative: for ever.
	KeepHistory time.Duration
	// ListenClient, if set, lets etcdctl and other API servers in:
	// "unix:///path" (mode 0600) or "https://host:port" with ListenTLS.
	ListenClient string
	// ListenTLS is the server's side of TLS; it must ask for client certificates.
	ListenTLS *tls.Config
	// Log takes etcd's messages. Default: slog's.
	Log *slog.Logger
}

func (c *Config) setDefaults() {
	if c.Name == "" {
		c.Name = "default"
	}
	if c.Quota == 0 {
		c.Quota = 8 << 30
	}
	if c.MinFree == 0 {
		c.MinFree = 160 << 20
	}
	if c.KeepHistory == 0 {
		c.KeepHistory = 5 * time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Figures of a single member; docs/design/0001-store.md has the measurements.
const (
	// tick only bounds elections, of which a lone member has one, and the
	// shortest lease (3 ticks); a slow one leaves the machine asleep.
	tick          = 500 * time.Millisecond
	electionTicks = 2
	// batchInterval is how often the database file follows the log. The log
	// is what makes a write durable, so this only bounds the replay at start.
	batchInterval = 5 * time.Second
	// batchLimit bounds what waits for the database file in memory, in changes.
	batchLimit = 1000
	// snapshotCount bounds the log that is replayed at start. catchUpEntries of
	// it stay in memory.
	snapshotCount  = 1000
	catchUpEntries = 3 * snapshotCount
	// maxRequestBytes exceeds the API's limit of 3 MiB, so that limit decides.
	maxRequestBytes = 4 << 20
	maxTxnOps       = 10000
	// peerURL names the member in its own one-member cluster; nothing listens there.
	peerURL = "http://127.0.0.1:2380"
)

// member is an etcd server in the process, called directly.
type member struct {
	cfg  Config
	srv  *etcdserver.EtcdServer
	lock *os.File

	grpc   *grpc.Server
	served sync.WaitGroup

	fault  atomic.Pointer[error] // why etcd died
	failed chan struct{}         // closed when fault is set
	alive  context.Context       // ends with it
	die    context.CancelFunc
	closed chan struct{}
	space  space
}

// Open starts a member on cfg.Dir and returns when it takes requests.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.setDefaults()
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("etcd's data directory: %w", err)
	}
	cfg.Dir = dir
	m := &member{cfg: cfg, failed: make(chan struct{}), closed: make(chan struct{})}
	m.alive, m.die = context.WithCancel(context.Background())
	m.space = space{dir: cfg.Dir, file: m.database(), min: cfg.MinFree, quota: cfg.Quota, free: freeBytes}
	if err := m.claim(); err != nil {
		return nil, err
	}
	if err := m.start(ctx); err != nil {
		m.lock.Close()
		return nil, err
	}
	if err := m.listen(ctx); err != nil {
		m.stop()
		return nil, err
	}
	s := newStore(m, m.closed, true)
	if cfg.KeepHistory > 0 {
		s.keepHistory(store.History{Keep: cfg.KeepHistory, Log: cfg.Log})
	}
	return s, nil
}

// claim makes the directory and takes its lock, so that a second process gets
// an answer at once instead of waiting for the database file.
func (m *member) claim() error {
	if err := os.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("making etcd's data directory: %w", err)
	}
	if err := os.Chmod(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("closing etcd's data directory to others: %w", err)
	}
	name := filepath.Join(m.cfg.Dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the lock of etcd's data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(name) // only to say who; may be empty
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("etcd's data directory %s is in use by another process (pid %s): stop it or choose another directory", m.cfg.Dir, holder)
		}
		return fmt.Errorf("locking etcd's data directory %s: %w", m.cfg.Dir, err)
	}
	m.lock = f
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d", os.Getpid())
		if err != nil {
			m.cfg.Log.Debug("noting the pid in the lock file failed", "err", err)
		}
	}
	if err := m.inspect(); err != nil {
		f.Close()
		return err
	}
	return nil
}

// inspect looks at the database file as etcd will, because etcd itself waits
// for a foreign lock, panics on a broken file, and turns to the other members
// of its cluster as soon as it is made.
func (m *member) inspect() error {
	name := m.database()
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	db, err := bolt.Open(name, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Millisecond})
	switch {
	case err == nil:
		defer db.Close() // only read
		return m.alone(db)
	case errors.Is(err, bolt.ErrTimeout):
		return fmt.Errorf("etcd's database %s is in use by another process: stop the etcd that runs on it", name)
	default:
		return fmt.Errorf("etcd's database %s is damaged (%w): restore a backup, or remove %s to start empty", name, err, m.cfg.Dir)
	}
}

// alone refuses the database of a member that has others beside it.
func (m *member) alone(db *bolt.DB) error {
	n := 0
	err := db.View(func(tx *bolt.Tx) error {
		members := tx.Bucket(schema.Members.Name())
		if members == nil {
			return nil // of an etcd that has not begun
		}
		return members.ForEach(func(_, _ []byte) error { n++; return nil })
	})
	if err != nil {
		return fmt.Errorf("reading the members in etcd's database %s: %w", db.Path(), err)
	}
	if n > 1 {
		return fmt.Errorf("starting etcd in %s: it belongs to a member of a cluster of %d, which cannot decide alone: use the cluster's endpoints, or restore its snapshot into an empty directory", m.cfg.Dir, n)
	}
	return nil
}

// serverConfig is etcd's configuration of a lone member.
func (m *member) serverConfig() config.ServerConfig {
	urls := types.MustNewURLs([]string{peerURL})
	return config.ServerConfig{
		Name:                        m.cfg.Name,
		PeerURLs:                    urls,
		InitialPeerURLsMap:          types.URLsMap{m.cfg.Name: urls},
		InitialClusterToken:         "etcd-cluster",
		NewCluster:                  true,
		DataDir:                     m.cfg.Dir,
		TickMs:                      uint(tick / time.Millisecond),
		ElectionTicks:               electionTicks,
		PreVote:                     true,
		SnapshotCount:               snapshotCount,
		SnapshotCatchUpEntries:      catchUpEntries,
		MaxSnapFiles:                2,
		MaxWALFiles:                 2,
		BackendBatchInterval:        batchInterval,
		BackendBatchLimit:           batchLimit,
		BackendFreelistType:         bolt.FreelistMapType,
		QuotaBackendBytes:           -1, // space looks after the quota
		MaxTxnOps:                   maxTxnOps,
		MaxRequestBytes:             maxRequestBytes,
		MaxConcurrentStreams:        1 << 16,
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: time.Second,
		BcryptCost:                  10,
		StrictReconfigCheck:         true,
		MaxLearners:                 1, // as etcd's
		Logger:                      zapLogger(m.cfg.Log, m.fail),
		ServerFeatureGate:           features.NewDefaultServerFeatureGate(m.cfg.Name, nil),
		Metrics:                     "basic",
		CompactionBatchLimit:        1000,
		CompactionSleepInterval:     10 * time.Millisecond,
		InitialElectionTickAdvance:  true,
		ClientCertAuthEnabled:       m.cfg.ListenTLS != nil,
	}
}

// start runs the server up to where it leads itself.
func (m *member) start(ctx context.Context) error {
	built := make(chan error, 1)
	go func() {
		err := errors.New("etcd gave up without a reason")
		// On a fatal error etcd's logger ends this goroutine.
		defer func() { built <- err }()
		m.srv, err = etcdserver.NewServer(m.serverConfig())
	}()
	select {
	case <-m.failed:
		return fmt.Errorf("starting etcd in %s: %w", m.cfg.Dir, *m.fault.Load())
	case err := <-built:
		if m.fault.Load() != nil {
			err = *m.fault.Load()
		}
		if err != nil {
			return fmt.Errorf("starting etcd in %s: %w", m.cfg.Dir, err)
		}
	}
	m.space.inUse = m.srv.Backend().SizeInUse
	m.srv.Start()
	if err := m.elect(ctx); err != nil {
		m.stop()
		return fmt.Errorf("starting etcd in %s: %w", m.cfg.Dir, err)
	}
	if err := m.disarm(ctx); err != nil {
		m.stop()
		return fmt.Errorf("starting etcd in %s: %w", m.cfg.Dir, err)
	}
	if err := m.space.secure(); err != nil {
		m.cfg.Log.Warn("etcd's database has no space of its own yet", "err", err)
	}
	if err := releasePages(m.database()); err != nil {
		m.cfg.Log.Debug("etcd's database stays resident", "err", err) // which only costs memory
	}
	return nil
}

// database is the path of the database file.
func (m *member) database() string { return filepath.Join(m.cfg.Dir, "member", "snap", "db") }

// elect has the member campaign at once, as a leader that steps down would ask
// it to, instead of after the election timeout. etcd tells nobody when the
// member may campaign (when it has applied its own membership), so this asks
// again until it leads. raft itself must have learnt what is applied: it looks
// through the rest when it campaigns, and dies where that is compacted, which
// the server does (to entry 1 at least) before it tells raft.
func (m *member) elect(ctx context.Context) error {
	const (
		again   = 2 * time.Millisecond
		patient = 10 // rounds in which something should be applied, unless there is nothing
		// blind is the rounds after which raft's word is not waited for any more:
		// with several members in a process only one of them is heard.
		blind = 250
	)
	id := uint64(m.srv.MemberID())
	campaign := &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: proto.Uint64(id), From: proto.Uint64(id)}
	for round := 0; m.srv.Leader() == 0; round++ {
		applied := m.srv.AppliedIndex()
		if applied == m.srv.CommittedIndex() && (applied > 0 || round > patient) && (raftApplied() >= applied || round > blind) {
			if err := m.srv.Process(ctx, campaign); err != nil {
				return fmt.Errorf("campaigning: %w", err)
			}
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return ctx.Err()
		case <-m.failed:
			return *m.fault.Load()
		}
	}
	// A read through the log proves that the first entry of the term is applied.
	_, err := m.srv.Range(ctx, &pb.RangeRequest{Key: []byte{0}})
	return err
}

// raftApplied is how far raft has learnt that entries are applied. etcd shows
// it only as a variable of the process.
func raftApplied() uint64 {
	show, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return 0
	}
	status, ok := show.Value().(raft.Status)
	if !ok {
		return 0
	}
	return status.Applied
}

// disarm lifts the out-of-space alarm that a stock etcd may have left in the
// directory and that lasts there until an operator lifts it. Here the quota is
// looked at before every write instead.
func (m *member) disarm(ctx context.Context) error {
	for _, alarm := range m.srv.Alarms() {
		if alarm.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := m.srv.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm}); err != nil {
			return fmt.Errorf("lifting the out-of-space alarm: %w", err)
		}
	}
	return nil
}

// fail notes the first error that etcd cannot go on after.
func (m *member) fail(err error) {
	if m.fault.CompareAndSwap(nil, &err) {
		close(m.failed)
		m.die()
	}
}

// Failed is closed when the member had to give up: no disk space for its own
// log, a disk that fails. Every call says so from then on, and the process
// should end, for nothing in it can be made good. It is nil for a cluster
// elsewhere.
func (s *Store) Failed() <-chan struct{} {
	if m, ok := s.engine.(*member); ok {
		return m.failed
	}
	return nil
}

func (m *member) broken() error {
	if err := m.fault.Load(); err != nil {
		return store.Unavailable("using etcd, which failed", *err)
	}
	return nil
}

func (m *member) rangeKeys(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return m.srv.Range(ctx, r)
}

func (m *member) txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if puts(r) {
		if err := m.space.check(); err != nil {
			return nil, err
		}
	}
	// A dead server would keep its caller waiting for the request's timeout.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.alive, cancel)()
	return m.srv.Txn(ctx, r)
}

func (m *member) compact(ctx context.Context, r *pb.CompactionRequest) error {
	_, err := m.srv.Compact(ctx, r)
	return err
}

func (m *member) grant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return m.srv.LeaseGrant(ctx, r)
}

func (m *member) size(context.Context) (int64, error) { return m.srv.Backend().Size(), nil }

func (m *member) close() error {
	m.stop()
	return nil
}

// stop ends the server. After a fatal error etcd's goroutines may have died
// with locks held, so there is nothing to wait for; the files stay locked
// until the process ends, as they should.
func (m *member) stop() {
	if m.grpc != nil {
		m.grpc.Stop()
		m.served.Wait()
	}
	if m.fault.Load() != nil {
		return
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		m.srv.HardStop()
	}()
	select {
	case <-stopped:
		m.lock.Close()
	case <-m.failed:
	}
}

// listen serves etcd's own API to other processes, if that is asked for.
func (m *member) listen(ctx context.Context) error {
	if m.cfg.ListenClient == "" {
		return nil
	}
	network, address, err := m.listenAddress()
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return fmt.Errorf("listening for etcd's clients: %w", err)
	}
	var conf *tls.Config
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			l.Close()
			return fmt.Errorf("closing etcd's socket to others: %w", err)
		}
	} else {
		conf = m.cfg.ListenTLS
	}
	m.grpc = v3rpc.Server(m.srv, conf, m.guard)
	m.cfg.Log.Info("etcd takes clients", "address", l.Addr().String())
	m.served.Go(func() {
		if err := m.grpc.Serve(l); err != nil {
			m.cfg.Log.Error("serving etcd's clients ended", "err", err)
		}
	})
	return nil
}
