package machine

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The second half of a machine's init, after the change of control group namespace.
const settledCommand = "settled"

// Hold is the whole life of the program when it was started as a machine's init; it returns at once when it
// was not. main calls it first.
func Hold() {
	if len(os.Args) < 5 || os.Args[1] != holdCommand {
		return
	}
	dir, name, ip := os.Args[2], os.Args[3], os.Args[4]
	var err error
	if len(os.Args) == 5 {
		err = settle(dir, name)
	} else {
		err = serve(filepath.Join(dir, name), name, ip)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// settle puts this process into its place and begins again there: a change of control group namespace is a
// thread's, and only the program that follows has it in all of its threads.
func settle(dir, name string) error {
	runtime.LockOSThread()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts private: %w", err)
	}
	trees, err := controlTrees()
	if err != nil {
		return err
	}
	for _, t := range trees {
		if err := t.enter(groupOf(dir), name); err != nil {
			return fmt.Errorf("entering a control group of %s: %w", t.path, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a control group namespace: %w", err)
	}
	if err := mountMachine(filepath.Join(dir, name), trees); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	return unix.Exec("/proc/self/exe", append(os.Args, settledCommand), os.Environ())
}

// mountMachine mounts what a machine has of its own.
func mountMachine(dir string, trees []controlTree) error {
	for _, m := range []struct{ what, where, kind, options string }{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
	} {
		if err := unix.Mount(m.what, m.where, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mounting %s: %w", m.where, err)
		}
	}
	for _, t := range trees {
		if err := t.mount(); err != nil {
			return fmt.Errorf("mounting %s: %w", t.path, err)
		}
	}
	for from, to := range map[string]string{"var-lib": "/var/lib", "var-log": "/var/log"} {
		if err := unix.Mount(filepath.Join(dir, from), to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", to, err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing mounts within the machine: %w", err)
	}
	return nil
}

// serve brings the loopback up, does the duties of an init, and runs parts as it is told.
func serve(dir, name, ip string) error {
	// Only SIGKILL from outside ends a machine. These are taken, not ignored, as parts would inherit that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	for file, text := range settings {
		if err := os.WriteFile("/proc/sys/"+file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", ip, name)
	if err := replaceFile(dir, "/etc/hosts", hosts); err != nil {
		return err
	}
	// Nobody answers there, at once: names are the cluster's own or nobody's.
	if err := replaceFile(dir, "/etc/resolv.conf", "nameserver "+ip[:strings.LastIndex(ip, ".")]+".1\n"); err != nil {
		return err
	}
	return newKeeper(dir).serve()
}

// settings are those of a node's network namespace.
var settings = map[string]string{
	"net/ipv4/ip_forward":          "1",
	"net/ipv6/conf/all/forwarding": "1",
}

// replaceFile lets a file of /etc be another one in this machine.
func replaceFile(dir, name, text string) error {
	own := filepath.Join(dir, filepath.Base(name))
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		return err
	}
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	return unix.Mount(own, name, "", unix.MS_BIND, "")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
