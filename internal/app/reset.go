package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/app/node"
	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/cgroup/pidfd"
	"skiff.dev/skiff/internal/mount"
	"skiff.dev/skiff/internal/runtime"
)

// reset is what `skiff reset` is told.
type reset struct {
	dataDir    string
	yes, force bool
	out        io.Writer
}

func resetCommand() *cobra.Command {
	var r reset
	cmd := &cobra.Command{
		Use: "reset", Short: "Remove everything that skiff has put on this machine for a data directory", Args: cobra.NoArgs,
		Long: `Remove everything that skiff has put on this machine for a data directory:
containers and their runtime, interfaces, routes, nftables tables, mounts, control
groups, sockets, and the data directory itself with all that the cluster stored in it.
What is not skiff's stays. It may be repeated.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.out = cmd.OutOrStdout()
			if err := r.confirm(os.Stdin); err != nil {
				return err
			}
			return r.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.dataDir, "data-dir", Default().DataDir, "data directory to remove, with all that belongs to it")
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&r.force, "force", false, "end the skiff that runs on the data directory")
	return cmd
}

// confirm asks a person, and refuses where there is none to ask.
func (r *reset) confirm(in *os.File) error {
	if r.yes {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS); err != nil {
		return errors.New("reset removes the cluster's data; say --yes")
	}
	fmt.Fprintf(r.out, "This removes %s with all that is stored in it. Type yes to go on: ", r.dataDir)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was removed")
	}
	return nil
}

func (r *reset) run(ctx context.Context) error {
	dir, err := r.check()
	if err != nil {
		return err
	}
	r.dataDir = dir
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	before := hostState(dir)
	err = removeAll(ctx, dir)
	gone := before.minus(hostState(dir))
	for _, what := range gone {
		fmt.Fprintln(r.out, "removed", what)
	}
	if err != nil {
		return fmt.Errorf("not everything could be removed (the command may be repeated): %w", err)
	}
	if len(gone) == 0 {
		fmt.Fprintln(r.out, "nothing of", dir, "was there")
	}
	return nil
}

// removeAll goes from what runs to what lies around, and stops where the next
// step would take away what a repetition needs.
func removeAll(ctx context.Context, dir string) error {
	if err := runtime.Reset(dir); err != nil {
		return err
	}
	if err := node.CleanupNetwork(ctx, dir); err != nil {
		return fmt.Errorf("cleaning up the network: %w", err)
	}
	return removeDataDir(dir)
}

// marks are what tells a data directory of skiff's from any other; upstream's
// kubelet, too, has one with a "pki" in it.
var marks = []string{lockFile, agentKubeconfig}

// check refuses directories that are no data directories.
func (r *reset) check() (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("reset has to run as root")
	}
	dir, err := filepath.Abs(r.dataDir)
	if err != nil {
		return "", fmt.Errorf("--data-dir: %w", err)
	}
	if strings.Count(dir, "/") < 2 {
		return "", fmt.Errorf("--data-dir: %s is not a data directory", dir)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return dir, nil // what lies outside may still be there
	}
	if err != nil {
		return "", fmt.Errorf("--data-dir: %w", err)
	}
	ours := len(entries) == 0 || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return slices.Contains(marks, e.Name()) })
	if !ours {
		return "", fmt.Errorf("--data-dir: %s does not look like a data directory of skiff; nothing was removed", dir)
	}
	return dir, nil
}

const (
	stopGrace   = 20 * time.Second
	killTimeout = 5 * time.Second
)

// lock keeps every skiff out of the data directory, after ending the one that
// runs on it if that was asked for.
func (r *reset) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(r.dataDir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil // nobody has run there, or it is gone
	}
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = r.end(ctx, f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// end ends who holds the lock on f and takes it.
func (r *reset) end(ctx context.Context, f *os.File) error {
	pid, err := holder(f)
	if err != nil {
		return err
	}
	if !r.force {
		return fmt.Errorf("a skiff (process %d) runs on %s; stop it first, or say --force", pid, r.dataDir)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending process %d: %w", pid, err)
	}
	if lockWithin(ctx, f, stopGrace) == nil {
		fmt.Fprintf(r.out, "ended process %d\n", pid)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if now, err := holder(f); err != nil || now != pid {
		return fmt.Errorf("process %d still runs on %s: %w", now, r.dataDir, errors.Join(err, ctx.Err()))
	}
	if err := pidfd.KillAll(ctx, []int{pid}, nil); err != nil {
		return fmt.Errorf("ending process %d: %w", pid, err)
	}
	fmt.Fprintf(r.out, "killed process %d, which did not end by itself\n", pid)
	return lockWithin(ctx, f, killTimeout)
}

// lockWithin waits for the lock. It asks again and again, since flock itself
// can wait for ever only.
func lockWithin(ctx context.Context, f *os.File, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// holder finds the process that holds the lock on f: it must be in the
// kernel's list of locks and have the very file open.
func holder(f *os.File) (int, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &want); err != nil {
		return 0, err
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, fmt.Errorf("looking for who holds %s: %w", f.Name(), err)
	}
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], ":"+strconv.FormatUint(want.Ino, 10)) {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err == nil && pid > 1 && hasOpen(pid, &want) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("%s is locked, but not by a process that can be seen from here; end it yourself", f.Name())
}

func hasOpen(pid int, want *unix.Stat_t) bool {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(fds, func(fd string) bool {
		var st unix.Stat_t
		return unix.Stat(fd, &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino
	})
}

// removeDataDir removes the files, once nothing is mounted among them through
// which the removal would reach elsewhere.
func removeDataDir(path string) error {
	dir, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the data directory: %w", err)
	}
	mounts, err := mount.New().List(dir)
	if err != nil {
		return fmt.Errorf("reading mounts: %w", err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Target, dir+"/") {
			return fmt.Errorf("%s is still mounted; unmount it and repeat", m.Target)
		}
	}
	if slices.ContainsFunc(mounts, func(m mount.Info) bool { return m.Target == dir }) {
		return removeContents(dir) // a file system of its own: its root stays
	}
	if err := removeContents(dir); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(dir), os.RemoveAll(path))
}

// removeContents leaves the lock for last: a repetition knows the directory by it.
func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != lockFile {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, lockFile))
}

// state is what a reset could remove, in the order in which it is told.
type state []string

func (s state) minus(other state) (gone []string) {
	for _, what := range s {
		if !slices.Contains(other, what) {
			gone = append(gone, what)
		}
	}
	return gone
}

// families are nft's names for them.
var families = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// hostState lists what there is. What cannot be read is left out: it serves to
// tell what has gone.
func hostState(dir string) (s state) {
	if tree, err := cgroup.New(cgroup.RootOf(dir)); err == nil {
		if pids, err := tree.Processes(cgroup.RootOf(dir)); err == nil {
			for _, pid := range pids {
				s = append(s, fmt.Sprintf("process %d in %s", pid, cgroup.RootOf(dir)))
			}
			s = append(s, "control group "+cgroup.RootOf(dir))
		}
	}
	if mounts, err := mount.New().List(dir); err == nil {
		for _, m := range mounts {
			s = append(s, "mount "+m.Target)
		}
	}
	if links, err := netlink.LinkList(); err == nil {
		for _, l := range links {
			s = append(s, "interface "+l.Attrs().Name)
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				continue
			}
			for _, a := range addrs {
				if a.Scope == unix.RT_SCOPE_UNIVERSE {
					s = append(s, fmt.Sprintf("address %s on %s", a.IP, l.Attrs().Name))
				}
			}
		}
	}
	if conn, err := nftables.New(); err == nil {
		if tables, err := conn.ListTables(); err == nil {
			for _, t := range tables {
				if strings.HasPrefix(t.Name, "skiff") {
					s = append(s, fmt.Sprintf("nftables table %s %s", families[t.Family], t.Name))
				}
			}
		}
	}
	if socket := strings.TrimPrefix(runtime.EndpointOf(dir), "unix://"); socket != "" {
		if run := filepath.Dir(socket); exists(run) {
			s = append(s, "directory "+run)
		}
	}
	if exists(dir) {
		s = append(s, "directory "+dir)
	}
	return s
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
