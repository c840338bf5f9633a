// Package sandbox runs a program again in network, mount and process
// namespaces of its own, so that a node that is measured touches nothing on the
// host but its cgroups, and every process it started ends with it. Needs root.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside is set in the environment of the program that runs in the namespaces.
const inside = "SKIFF_BENCH_SANDBOX"

// Address is the sandbox's own; nothing else is reachable.
const Address = "192.0.2.10/24"

// Enter runs the program again with its arguments in new namespaces, unless it
// is there already. done says that this has happened, and err is its outcome.
// When ctx ends it is told to end, and cleans up.
func Enter(ctx context.Context) (done bool, err error) {
	if os.Getenv(inside) != "" {
		// A tool that this one starts may want a sandbox of its own.
		return false, errors.Join(os.Unsetenv(inside), prepare())
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		return true, fmt.Errorf("running in namespaces of its own: %w", err)
	}
	return true, nil
}

// prepare makes the namespaces habitable.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	// A node keeps its CNI files and sockets below these.
	for _, dir := range []string{"/run", "/etc/cni", "/opt/cni"} {
		if err := hide(dir); err != nil {
			return err
		}
	}
	return network()
}

// hide puts an empty directory of the sandbox's own over one of the host's.
func hide(dir string) error {
	err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hiding %s: %w", dir, err)
	}
	return nil
}

// network brings up loopback and an interface with the default route. That is a
// veth whose other end nobody listens on: not every kernel has dummy interfaces.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0 := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "nowhere"}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(eth0)); err != nil {
		return fmt.Errorf("making interfaces: %w", err)
	}
	nowhere, err := netlink.LinkByName(eth0.PeerName)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(Address)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.AddrAdd(eth0, addr), netlink.LinkSetUp(eth0), netlink.LinkSetUp(nowhere)); err != nil {
		return fmt.Errorf("giving eth0 its address: %w", err)
	}
	_, all, err := net.ParseCIDR("0.0.0.0/0")
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Index, Dst: all, Gw: net.IPv4(192, 0, 2, 1)}); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	return nil
}
