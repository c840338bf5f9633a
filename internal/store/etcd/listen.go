package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"skiff.dev/skiff/internal/store"
)

// listenAddress reads ListenClient and refuses what would let anybody in.
func (m *member) listenAddress() (network, address string, err error) {
	u, err := url.Parse(m.cfg.ListenClient)
	if err != nil {
		return "", "", fmt.Errorf("address for etcd's clients: %w", err)
	}
	switch u.Scheme {
	case "unix":
		// A socket that a killed process left behind is in the way; the
		// directory's lock says that no other member owns it.
		if err := os.Remove(u.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", "", fmt.Errorf("removing a stale socket: %w", err)
		}
		return "unix", u.Path, nil
	case "https":
		if m.cfg.ListenTLS == nil || m.cfg.ListenTLS.ClientAuth != tls.RequireAndVerifyClientCert {
			return "", "", fmt.Errorf("address for etcd's clients %s: a network address needs a TLS configuration that requires client certificates", u)
		}
		return "tcp", u.Host, nil
	default:
		return "", "", fmt.Errorf("address for etcd's clients %q: want unix:///path or https://host:port", m.cfg.ListenClient)
	}
}

// guard refuses other processes' writes as it does our own.
func (m *member) guard(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	adds := false
	switch r := req.(type) {
	case *pb.PutRequest:
		adds = true
	case *pb.TxnRequest:
		adds = puts(r)
	}
	if adds {
		if err := m.space.check(); err != nil {
			return nil, rpctypes.ErrGRPCNoSpace
		}
	}
	return next(ctx, req)
}

// puts says whether the transaction may add something.
func puts(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if op.GetRequestPut() != nil || op.GetRequestTxn() != nil {
				return true
			}
		}
	}
	return false
}

// space watches over the quota and over the file system's free space, because
// etcd dies when its log cannot grow.
type space struct {
	dir        string
	file       string // the database
	min, quota int64
	free       func(dir string) (int64, error)
	inUse      func() int64

	mu       sync.Mutex
	asked    time.Time
	err      error
	database int64 // its size when it was last given all of its space
}

// secure has the file system set aside the space of the whole database. Pages
// that were never written have none before, and etcd gives up when it cannot
// write one because others have filled the disk.
func (s *space) secure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secureLocked()
}

func (s *space) secureLocked() error {
	info, err := os.Stat(s.file)
	if err != nil {
		return fmt.Errorf("asking for the database's size: %w", err)
	}
	if info.Size() <= s.database {
		return nil
	}
	f, err := os.OpenFile(s.file, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("setting aside space for the database: %w", err)
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, info.Size())
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // some file systems cannot
		return fmt.Errorf("setting aside space for %s: %w", s.file, err)
	}
	s.database = info.Size()
	return nil
}

// check returns store.ErrNoSpace if too little is left. The answer is reused
// for a short while.
func (s *space) check() error {
	const fresh = 100 * time.Millisecond
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.asked) < fresh {
		return s.err
	}
	s.asked, s.err = now, nil
	_ = s.secureLocked() // there is no room for it: the next lines say so, or it is tried again
	if used := s.inUse(); used > s.quota {
		s.err = fmt.Errorf("%w: the database holds %d MiB of the %d MiB of its quota", store.ErrNoSpace, used>>20, s.quota>>20)
	} else if free, err := s.free(s.dir); err == nil && free < s.min {
		s.err = fmt.Errorf("%w: the file system of %s has %d MiB left, %d MiB must stay free", store.ErrNoSpace, s.dir, free>>20, s.min>>20)
	}
	return s.err
}

// freeBytes is what an ordinary process may still write below dir.
func freeBytes(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("asking for free space: %w", err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}
