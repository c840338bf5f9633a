package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/mount"
)

// host is what the generated configuration depends on.
type host struct {
	arch             string
	snapshotter      string
	apparmor         bool
	mayLowerOOMScore bool
}

// detect looks at the machine, and fails with what is missing where containers cannot run at all.
func detect(c Config, l layout) (host, error) {
	h := host{arch: goruntime.GOARCH}
	if os.Geteuid() != 0 {
		return h, errors.New("the container runtime must be started as root")
	}
	if _, err := cgroup.Detect(); err != nil {
		return h, fmt.Errorf("looking for cgroups: %w", err)
	}
	var err error
	if h.mayLowerOOMScore, err = mayLowerOOMScore(); err != nil {
		return h, err
	}
	if data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil {
		_, parser := os.Stat("/sbin/apparmor_parser")
		h.apparmor = strings.HasPrefix(string(data), "Y") && parser == nil
	}
	h.snapshotter = c.Snapshotter
	if h.snapshotter == "native" {
		return h, nil
	}
	switch err := tryOverlay(l.root); {
	case err == nil:
		h.snapshotter = "overlayfs"
	case c.Snapshotter == "overlayfs":
		return h, fmt.Errorf("the overlayfs snapshotter was asked for but does not work on %s: %w", l.root, err)
	default:
		c.Log.Warn("overlayfs does not work here; images will be copied for each container (native snapshotter)",
			"dir", l.root, "error", err)
		h.snapshotter = "native"
	}
	return h, nil
}

// mayLowerOOMScore tells whether this process has CAP_SYS_RESOURCE, without which the kernel refuses
// an oom_score_adj below that of the parent.
func mayLowerOOMScore() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("reading the process's capabilities: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0, nil
}

// tryOverlay mounts an overlay below dir, the only sure way to know whether the kernel and the file
// system (its d_type, its extended attributes, whether it is itself an overlay) allow it.
func tryOverlay(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, ".overlay-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	sub := func(name string) string { return filepath.Join(tmp, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(sub(name), 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(sub("lower"), "file"), nil, 0o600); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", sub("lower"), sub("upper"), sub("work"))
	m := mount.New()
	if err := m.Mount(mount.Mount{Source: "overlay", Target: sub("merged"), Type: "overlay", Options: options}); err != nil {
		return err
	}
	// A whiteout is what the weaker file systems fail at.
	removed := os.Remove(filepath.Join(sub("merged"), "file"))
	return errors.Join(removed, m.Unmount(sub("merged")))
}
