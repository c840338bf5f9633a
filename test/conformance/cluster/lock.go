package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrBusy says that somebody works with a cluster at the moment.
var ErrBusy = errors.New("another yardstick works with it; end that first, and it removes the cluster itself")

// Lock keeps a cluster's directory for this process until unlock is called or the process ends, however
// it does. It is an ErrBusy when another has it.
func Lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, fmt.Errorf("the cluster in %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
