package oci

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// places are where the kernel's file systems belong. Elsewhere they are unusual.
var places = map[string]string{
	"proc": "/proc", "sysfs": "/sys", "tmpfs": "/dev", "devpts": "/dev/pts", "mqueue": "/dev/mqueue", "cgroup": "/sys/fs/cgroup",
}

// mountFlags are the options that are no file system's own.
var mountFlags = map[string]uint64{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME, "noatime": unix.MS_NOATIME,
	"bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC, "rw": 0,
}

// propagations are how mounts spread between the host and the container. Shared ones are left to runc.
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE,
}

// unusual are options that runc knows and this package does not, and that must not be taken for a file
// system's own.
var unusual = map[string]bool{
	"shared": true, "rshared": true, "unbindable": true, "runbindable": true, "remount": true, "tmpcopyup": true, "idmap": true,
	"ridmap": true, "rro": true, "rrw": true, "rnosuid": true, "rnodev": true, "rnoexec": true, "suid": true, "dev": true, "exec": true,
	"sync": true, "async": true, "dirsync": true, "mand": true, "nomand": true, "atime": true, "nodiratime": true, "diratime": true,
	"norelatime": true, "nostrictatime": true, "silent": true, "loud": true, "iversion": true, "noiversion": true,
	"nosymfollow": true, "symfollow": true, "defaults": true, "lazytime": true, "nolazytime": true,
}

// options are a mount's.
type options struct {
	flags, propagation uint64
	writable           bool // it is said to be
	data               []string
}

func optionsOf(m specs.Mount) (o options, err error) {
	for _, name := range m.Options {
		flag, known := mountFlags[name]
		propagation, spreads := propagations[name]
		switch {
		case known:
			o.flags |= flag
			o.writable = o.writable || name == "rw"
		case spreads:
			o.propagation = propagation
		case unusual[name]:
			return o, refuse("mount option %s at %s", name, m.Destination)
		default:
			o.data = append(o.data, name)
		}
	}
	return o, nil
}

// mounts adds the steps for the container's mounts, in their order.
func (b *Bundle) mounts(p *program, cgroups map[string]string) error {
	made := map[string]bool{}
	for _, m := range b.Spec.Mounts {
		o, err := optionsOf(m)
		if err != nil {
			return err
		}
		if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 || !path.IsAbs(m.Destination) {
			return refuse("the mount at %s is unusual", m.Destination)
		}
		m.Destination = path.Clean(m.Destination)
		switch {
		case m.Type == "bind" || o.flags&unix.MS_BIND != 0:
			err = bindMount(p, m, o)
		case places[m.Type] != m.Destination || o.propagation != 0:
			err = refuse("the mount of %s at %s is unusual", m.Type, m.Destination)
		case m.Type == "cgroup":
			err = b.cgroup(p, m, o, cgroups)
		default:
			// Where /proc and the like are is not the image's to say: no links.
			p.add(mountNew, m.Type, m.Source, m.Destination, o.flags, strings.Join(o.data, ","), uint64(unix.RESOLVE_NO_SYMLINKS))
		}
		if err != nil {
			return err
		}
		made[m.Destination] = true
	}
	for _, needed := range []string{"/proc", "/dev"} {
		if !made[needed] {
			return refuse("nothing is mounted at %s", needed)
		}
	}
	return nil
}

// attributes are the flags that are a mount's own, and not its file system's.
var attributes = []struct{ flag, attribute uint64 }{
	{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
	{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV}, {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
}

// bindMount adds the step for a part of the host's tree. One that is said to be writable or has any other
// attribute has these and no others; one of which nothing is said keeps those of its source.
func bindMount(p *program, m specs.Mount, o options) error {
	var set, clear uint64
	rest := o.flags &^ (unix.MS_BIND | unix.MS_REC)
	said := o.writable || rest != 0
	for _, a := range attributes {
		switch {
		case rest&a.flag != 0:
			set |= a.attribute
			rest &^= a.flag
		case said:
			clear |= a.attribute
		}
	}
	below := func(dir string) bool { return m.Destination == dir || strings.HasPrefix(m.Destination, dir+"/") }
	if rest != 0 || len(o.data) > 0 || !path.IsAbs(m.Source) || m.Destination == "/" || m.Destination == "/dev" || below("/proc") {
		return refuse("the mount at %s is unusual", m.Destination)
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		return refuse("%v", err) // whose words for what is wrong are the ones that are known
	}
	p.add(bind, m.Source, m.Destination, number(o.flags&unix.MS_REC != 0), set|clear<<32, o.propagation, number(info.IsDir()))
	return nil
}

func number(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// cgroup shows the container its own cgroup: by a namespace where there is one hierarchy, and by a mount of
// each where there are several.
func (b *Bundle) cgroup(p *program, m specs.Mount, o options, cgroups map[string]string) error {
	if _, unified := cgroups[""]; unified && len(cgroups) == 1 {
		if !slices.ContainsFunc(b.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace }) {
			return refuse("the cgroup is not in a namespace")
		}
		p.add(mountNew, "cgroup2", "cgroup", m.Destination, o.flags, strings.Join(o.data, ","), uint64(unix.RESOLVE_NO_SYMLINKS))
		return nil
	}
	if len(o.data) > 0 || slices.ContainsFunc(b.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace }) {
		return refuse("the mount of cgroups is unusual")
	}
	p.add(mountNew, "tmpfs", "tmpfs", m.Destination, o.flags&^unix.MS_RDONLY, "mode=755", uint64(unix.RESOLVE_NO_SYMLINKS))
	attr := uint64(0)
	for _, a := range attributes {
		if o.flags&a.flag != 0 {
			attr |= a.attribute
		}
	}
	names := make([]string, 0, len(cgroups))
	for name := range cgroups {
		names = append(names, name)
	}
	slices.Sort(names)
	seen := map[string]bool{"": true}
	for _, name := range names {
		if name == "" {
			continue
		}
		hierarchy, ok := strings.CutSuffix(cgroups[name], path.Clean(b.Spec.Linux.CgroupsPath))
		if !ok {
			return refuse("the cgroup %s is elsewhere", cgroups[name])
		}
		dir := path.Base(hierarchy) // which may serve several controllers: cpu,cpuacct
		if !seen[dir] {
			seen[dir] = true
			p.add(bind, cgroups[name], path.Join(m.Destination, dir), uint64(0), attr, uint64(0), uint64(1))
		}
		if own := strings.TrimPrefix(name, "name="); own != dir {
			p.add(link, dir, path.Join(m.Destination, own))
		}
	}
	return nil
}

// defaultDevices are those that every container has.
var defaultDevices = []*config.Device{
	device("null", 1, 3), device("random", 1, 8), device("full", 1, 7), device("tty", 5, 0), device("zero", 1, 5), device("urandom", 1, 9),
}

func device(name string, major, minor int64) *config.Device {
	return &config.Device{
		Rule:     config.Rule{Type: config.CharDevice, Major: major, Minor: minor, Permissions: "rwm", Allow: true},
		Path:     "/dev/" + name,
		FileMode: 0o666,
	}
}

// symlink is one of those in /dev.
type symlink struct{ to, path string }

func links() []symlink {
	all := []symlink{{"/proc/self/fd", "/dev/fd"}, {"pts/ptmx", "/dev/ptmx"}}
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		all = append(all, symlink{fmt.Sprint("/proc/self/fd/", i), "/dev/" + name})
	}
	if _, err := os.Stat("/proc/kcore"); err == nil {
		all = append(all, symlink{"/proc/kcore", "/dev/core"})
	}
	return all
}
