package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// attachment is the record of one container's interface.
type attachment struct {
	Container string        `json:"container"`
	Ifname    string        `json:"ifname"`
	Veth      string        `json:"veth"` // the node's end
	IPs       []netip.Addr  `json:"ips"`
	Ports     []PortMapping `json:"ports,omitempty"`
}

// name is the attachment's file name. Neither part can hold a slash: the
// specification allows container IDs letters, digits and [_.-].
func (a *attachment) name() string { return a.Container + "@" + a.Ifname }

// errUnknown is an attachment there is no record of.
var errUnknown = errors.New("no such attachment")

// state is the plugin's memory: a directory of records, attachments/NAME, and
// one of allocations, ips/ADDRESS, each a symbolic link to the name of its
// owner, for making a link is one step that cannot be half done. Addresses are
// taken before the record is written and given back before it is removed, so
// an allocation without a record is left over from a crash. The pods are gone
// after a power loss, so nothing is synced to disk.
type state struct {
	dir  string
	lock *os.File
}

// openState opens the state and locks it against other runs of the plugin.
func openState(dir string) (*state, error) {
	s := &state{dir: dir}
	for _, d := range []string{"attachments", "ips"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("making network state: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening network state: %w", err)
	}
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		lock.Close() // only a lock
		return nil, fmt.Errorf("locking network state: %w", err)
	}
	s.lock = lock
	return s, nil
}

func (s *state) close() { s.lock.Close() } // which unlocks

func (s *state) record(name string) string { return filepath.Join(s.dir, "attachments", name) }

func (s *state) read(name string) (*attachment, error) {
	data, err := os.ReadFile(s.record(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, errUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("reading attachment: %w", err)
	}
	a := &attachment{}
	if err := json.Unmarshal(data, a); err != nil {
		return nil, fmt.Errorf("reading attachment %s: %w", name, err)
	}
	return a, nil
}

func (s *state) write(a *attachment) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("writing attachment: %w", err)
	}
	tmp := s.record("." + a.name())
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("writing attachment: %w", err)
	}
	if err := os.Rename(tmp, s.record(a.name())); err != nil {
		return fmt.Errorf("writing attachment: %w", err)
	}
	return nil
}

func (s *state) remove(name string) error {
	if err := os.Remove(s.record(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing attachment: %w", err)
	}
	return nil
}

// list returns all attachments. A record that cannot be read is returned by
// its name, with nothing known but what that says.
func (s *state) list() ([]*attachment, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "attachments"))
	if err != nil {
		return nil, fmt.Errorf("listing attachments: %w", err)
	}
	var list []*attachment
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			os.Remove(s.record(e.Name())) // a write that was cut short; in nobody's way if it stays
			continue
		}
		a, err := s.read(e.Name())
		if err != nil {
			container, ifname, _ := strings.Cut(e.Name(), "@")
			a = &attachment{Container: container, Ifname: ifname, Veth: hostLink(container, ifname)}
		}
		list = append(list, a)
	}
	return list, nil
}

func (s *state) ip(a netip.Addr) string { return filepath.Join(s.dir, "ips", a.String()) }

// last is where the address given out last is kept, per CIDR: a pod's address
// stays unused for as long as possible after it, for others may remember it.
func (s *state) last(p netip.Prefix) string {
	return filepath.Join(s.dir, "last-"+strings.ReplaceAll(p.Masked().String(), "/", "_"))
}

// maxScan bounds the search for a free address; a node has room for fewer pods.
const maxScan = 1 << 16

// allocate gives the owner the next free address of the CIDR.
func (s *state) allocate(p netip.Prefix, owner string) (netip.Addr, error) {
	next := nextAfter(p, netip.Addr{})
	if data, err := os.ReadFile(s.last(p)); err == nil {
		if a, err := netip.ParseAddr(string(data)); err == nil && p.Contains(a) {
			next = nextAfter(p, a)
		}
	}
	start := next
	for range maxScan {
		err := os.Symlink(owner, s.ip(next))
		if err == nil {
			if err := os.WriteFile(s.last(p), []byte(next.String()), 0o600); err != nil {
				return netip.Addr{}, fmt.Errorf("noting the last address: %w", err)
			}
			return next, nil
		}
		if !errors.Is(err, syscall.EEXIST) {
			return netip.Addr{}, fmt.Errorf("taking address %s: %w", next, err)
		}
		if next = nextAfter(p, next); next == start {
			break
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address in %s", p)
}

// nextAfter returns the pod address that follows a in the CIDR, the first
// after the last. The CIDR's first address but one is the gateway's, and an
// IPv4 CIDR's last is for broadcast.
func nextAfter(p netip.Prefix, a netip.Addr) netip.Addr {
	if a.IsValid() {
		a = a.Next()
		if p.Contains(a) && (a.Is6() || p.Contains(a.Next())) {
			return a
		}
	}
	return gateway(p).Next()
}

// release gives an owner's addresses back.
func (s *state) release(owner string) error {
	return s.releaseIf(func(o string) bool { return o == owner })
}

// releaseOrphans gives back the addresses whose owner has no record.
func (s *state) releaseOrphans() error {
	return s.releaseIf(func(o string) bool {
		_, err := os.Lstat(s.record(o))
		return errors.Is(err, os.ErrNotExist)
	})
}

func (s *state) releaseIf(cond func(owner string) bool) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "ips"))
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, "ips", e.Name())
		owner, err := os.Readlink(path)
		if err != nil {
			return fmt.Errorf("reading the owner of an address: %w", err)
		}
		if !cond(owner) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("giving an address back: %w", err)
		}
	}
	return nil
}
