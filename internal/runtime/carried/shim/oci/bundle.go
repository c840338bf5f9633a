// Package oci says what the container of an OCI bundle needs in order to come to life without runc: the
// program that its first process carries out (carried/init/init.c), the limits of its cgroup, and the
// record by which runc knows it afterwards.
//
// It does so for ordinary containers only, as the kubelet and containerd ask for them: Read lists what it
// knows, field by field, and refuses a bundle that says anything else with ErrRunc. runc makes those.
package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrRunc says that a bundle asks for what only runc does.
var ErrRunc = errors.New("left to runc")

// refuse returns ErrRunc with what it is about.
func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRunc, fmt.Sprintf(format, args...))
}

// Bundle is an ordinary container's.
type Bundle struct {
	// ID is the container's identifier, Dir the bundle's directory, Root that of the root file system.
	ID, Dir, Root string
	// Spec is the bundle's configuration.
	Spec *specs.Spec
}

// The kinds of bundles that the CRI plugin makes.
const (
	Sandbox   = "sandbox"
	Container = "container"
)

// Kind tells what a bundle's configuration is that of; "" for neither.
func Kind(config []byte) string {
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(config, &spec) != nil {
		return ""
	}
	return spec.Annotations["io.kubernetes.cri.container-type"]
}

// Read takes a bundle's configuration for an ordinary container's, or returns an error that is ErrRunc.
func Read(id, dir string, config []byte) (*Bundle, error) {
	b := &Bundle{ID: id, Dir: dir, Spec: &specs.Spec{}}
	if err := json.Unmarshal(config, b.Spec); err != nil {
		return nil, refuse("%v", err)
	}
	if err := ofSpec(b.Spec); err != nil {
		return nil, err
	}
	if err := ofProcess(b.Spec.Process); err != nil {
		return nil, err
	}
	for _, known := range []func(*specs.Linux) error{ofLinux, ofNamespaces, ofResources} {
		if err := known(b.Spec.Linux); err != nil {
			return nil, err
		}
	}
	b.Root = b.Spec.Root.Path
	if !filepath.IsAbs(b.Root) {
		b.Root = filepath.Join(dir, b.Root)
	}
	return b, nil
}

// nothingElse refuses a structure of which more is set than has been taken out of it.
func nothingElse[T any](what string, rest T) error {
	v := reflect.ValueOf(rest)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			return refuse("%s.%s is set", what, v.Type().Field(i).Name)
		}
	}
	return nil
}

func ofSpec(s *specs.Spec) error {
	if s.Process == nil || s.Root == nil || s.Linux == nil {
		return refuse("the specification is incomplete")
	}
	rest := *s
	rest.Version, rest.Annotations = "", nil
	rest.Process, rest.Root, rest.Mounts, rest.Linux = nil, nil, nil, nil
	return nothingElse("spec", rest)
}

func ofProcess(p *specs.Process) error {
	rest := *p
	rest.ConsoleSize, rest.User, rest.Args, rest.Env, rest.Cwd = nil, specs.User{}, nil, nil, ""
	rest.Capabilities, rest.NoNewPrivileges, rest.OOMScoreAdj = nil, false, nil
	if err := nothingElse("process", rest); err != nil {
		return err
	}
	switch {
	case p.Capabilities == nil:
		return refuse("no capabilities are named")
	case len(p.Args) == 0 || p.Args[0] == "":
		return refuse("there is no program")
	case !filepath.IsAbs(p.Cwd):
		return refuse("the working directory is not absolute")
	case slices.ContainsFunc(slices.Concat(p.Args, p.Env), func(text string) bool { return strings.Contains(text, "\x00") }):
		return refuse("an argument or a variable has a zero byte")
	}
	return nil
}

func ofLinux(l *specs.Linux) error {
	rest := *l
	rest.Resources, rest.CgroupsPath, rest.Namespaces, rest.Seccomp = nil, "", nil, nil
	rest.RootfsPropagation, rest.MaskedPaths, rest.ReadonlyPaths = "", nil, nil
	if len(rest.Sysctl) == 0 { // the sandbox has them
		rest.Sysctl = nil
	}
	if err := nothingElse("linux", rest); err != nil {
		return err
	}
	switch l.RootfsPropagation {
	case "", "rslave", "slave":
	default:
		return refuse("mounts are to be shared with the host")
	}
	if !filepath.IsAbs(l.CgroupsPath) {
		return refuse("the cgroup's path is not absolute")
	}
	if c := l.Seccomp; c != nil && c.ListenerPath != "" {
		return refuse("system calls are to be answered by somebody else")
	}
	return nil
}

// ofNamespaces wants mounts and processes apart, and the rest the pod's or the host's.
func ofNamespaces(l *specs.Linux) error {
	fresh := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range l.Namespaces {
		switch ns.Type {
		case specs.MountNamespace, specs.PIDNamespace, specs.CgroupNamespace:
			if ns.Path != "" {
				return refuse("the %s namespace is somebody else's", ns.Type)
			}
		case specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace:
			if ns.Path == "" {
				return refuse("the %s namespace is not the pod's", ns.Type)
			}
		default:
			return refuse("there is a %s namespace", ns.Type)
		}
		fresh[ns.Type] = ns.Path == ""
	}
	if !fresh[specs.MountNamespace] || !fresh[specs.PIDNamespace] {
		return refuse("mounts or processes are shared")
	}
	return nil
}

// home is the home directory of a user, by the root file system's /etc/passwd.
func home(root string, uid uint32) string {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "/"
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, "etc/passwd", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "/"
	}
	f := os.NewFile(uintptr(fd), "passwd")
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "/"
	}
	data := make([]byte, 1<<16)
	n, _ := io.ReadFull(f, data) // users beyond that have no home, nor has anybody in a file that cannot be read
	return homeIn(string(data[:n]), fmt.Sprint(uid))
}

// homeIn finds a user's home in the text of a passwd file.
func homeIn(passwd, uid string) string {
	for line := range strings.Lines(passwd) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) >= 6 && fields[2] == uid {
			if fields[5] == "" {
				return "/"
			}
			return fields[5]
		}
	}
	return "/"
}
