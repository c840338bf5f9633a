package etcd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sys/unix"
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

// space watches over the file system's free space, because etcd dies when its
// log cannot grow.
type space struct {
	dir  string
	min  int64
	free func(dir string) (int64, error)

	mu    sync.Mutex
	asked time.Time
	err   error
}

// check returns etcd's own out-of-space error if too little is left. The
// answer is reused for a short while.
func (s *space) check() error {
	const fresh = 100 * time.Millisecond
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.asked) > fresh {
		s.asked, s.err = now, nil
		if free, err := s.free(s.dir); err == nil && free < s.min {
			s.err = rpctypes.ErrNoSpace
		}
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
