package oci

import (
	"encoding/binary"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultUmask is that of a container which names none.
const defaultUmask = 0o022

// Program returns what skiff-init is to carry out, in the form in which it is sent. cgroups are the
// directories of the container's cgroup by controller, as they are to be seen in the container; filter is
// its seccomp filter, nil for none. The order is the kernel's demand: what needs a capability or the
// host's file system comes before these are gone.
func (b *Bundle) Program(cgroups map[string]string, rules []byte) ([]byte, error) {
	p := &program{}
	for _, ns := range b.Spec.Linux.Namespaces {
		if ns.Type == specs.CgroupNamespace {
			p.add(unshare, uint64(unix.CLONE_NEWCGROUP))
		}
	}
	p.add(keyring, "_ses."+b.ID)
	if err := b.root(p, cgroups); err != nil {
		return nil, err
	}
	c, err := b.Confinement(rules)
	if err != nil {
		return nil, err
	}
	if err := c.confine(p, b.Spec.Process, execute); err != nil {
		return nil, err
	}
	return p.encode()
}

// Confinement is what all processes of a container are kept in by, beside its namespaces and cgroup. It may
// be shared.
type Confinement struct {
	id, root string
	rules    []byte // the seccomp filter; nil for none
	flags    uint64
	ptrace   bool
}

// Confinement returns the container's, with its translated filter.
func (b *Bundle) Confinement(rules []byte) (*Confinement, error) {
	flags, err := filterFlags(b.Spec.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	ptrace := slices.Contains(b.Spec.Process.Capabilities.Bounding, "CAP_SYS_PTRACE")
	return &Confinement{id: b.ID, root: b.Root, rules: rules, flags: flags, ptrace: ptrace}, nil
}

// Process is a process that is to be executed in a container.
type Process struct {
	*specs.Process
	// Program is for skiff-init, which has a descriptor of the container's first process as its number 4.
	Program []byte
}

// firstProcess is the number of that descriptor.
const firstProcess = 4

// Exec reads what is to be executed in the container, from the file that runc exec is given. The error is
// ErrRunc where it is unusual. In a container that may trace processes it always is: skiff-init is among
// the container's processes before it has given up what it is not to have.
func (c *Confinement) Exec(process []byte) (*Process, error) {
	if c.ptrace {
		return nil, refuse("the container may trace processes")
	}
	e := &Process{Process: &specs.Process{}}
	if err := json.Unmarshal(process, e.Process); err != nil {
		return nil, refuse("%v", err)
	}
	if err := ofProcess(e.Process); err != nil {
		return nil, err
	}
	p := &program{}
	p.add(enter, uint64(firstProcess), uint64(unix.CLONE_NEWNS))
	p.add(ownNull)
	p.add(keyring, "_ses."+c.id)
	p.add(umask, uint64(defaultUmask))
	if err := c.confine(p, e.Process, executeNow); err != nil {
		return nil, err
	}
	var err error
	e.Program, err = p.encode()
	return e, err
}

// root adds the steps that make the root file system and leave the host's.
func (b *Bundle) root(p *program, cgroups map[string]string) error {
	p.add(umask, uint64(0)) // modes are what they are said to be
	p.add(enterRoot, b.Root, number(b.Spec.Linux.RootfsPropagation == ""))
	if err := b.mounts(p, cgroups); err != nil {
		return err
	}
	for _, d := range defaultDevices {
		p.add(makeDevice, d.Path, uint64(unix.S_IFCHR|d.FileMode.Perm()), unix.Mkdev(uint32(d.Major), uint32(d.Minor)), uint64(0), uint64(0))
	}
	for _, l := range links() {
		p.add(link, l.to, l.path)
	}
	p.add(umask, uint64(defaultUmask))
	p.add(makeDirectory, filepath.Clean(b.Spec.Process.Cwd))
	p.add(pivot)
	p.add(ownNull)
	if b.Spec.Root.Readonly {
		p.add(makeReadOnly, "/")
	}
	for _, path := range b.Spec.Linux.ReadonlyPaths {
		p.add(freeze, path)
	}
	for _, path := range b.Spec.Linux.MaskedPaths {
		p.add(hide, path)
	}
	return nil
}

// confine adds the steps that give up what the process is not to have, and the last one.
func (c *Confinement) confine(p *program, process *specs.Process, last operation) error {
	caps, err := capabilitiesOf(process.Capabilities)
	if err != nil {
		return err
	}
	late := process.NoNewPrivileges // then a filter needs no capability
	if late {
		p.add(noNewPrivs)
	}
	if c.rules != nil && !late {
		p.add(filter, c.rules, uint64(len(c.rules)), c.flags)
	}
	p.add(workdir, process.Cwd, uint64(0))
	p.add(bound, caps.bounding)
	groups := make([]byte, 0, 4*len(process.User.AdditionalGids))
	for _, gid := range process.User.AdditionalGids {
		groups = binary.NativeEndian.AppendUint32(groups, gid)
	}
	p.add(become, uint64(process.User.UID), uint64(process.User.GID), groups, uint64(len(process.User.AdditionalGids)))
	p.add(workdir, process.Cwd, uint64(1))
	p.add(capabilities, caps.effective, caps.permitted, caps.inheritable, caps.ambient)
	if m := process.User.Umask; m != nil {
		p.add(umask, uint64(*m))
	}
	env, err := environment(process, c.root)
	if err != nil {
		return err
	}
	files, err := candidates(process.Args[0], env)
	if err != nil {
		return err
	}
	if c.rules != nil && late {
		p.add(last, files, process.Args, env, c.rules, uint64(len(c.rules)), c.flags)
	} else {
		p.add(last, files, process.Args, env)
	}
	return nil
}

// capabilitySets has a bit for each capability.
type capabilitySets struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

func capabilitiesOf(c *specs.LinuxCapabilities) (s capabilitySets, err error) {
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted},
		{c.Inheritable, &s.inheritable}, {c.Ambient, &s.ambient},
	} {
		for _, name := range set.names {
			number, ok := capabilityNumbers[name]
			if !ok {
				return s, refuse("capability %s is not known", name)
			}
			*set.bits |= 1 << number
		}
	}
	return s, nil
}

var capabilityNumbers = func() map[string]uint {
	m := map[string]uint{}
	for _, c := range capability.ListKnown() {
		m["CAP_"+strings.ToUpper(c.String())] = uint(c)
	}
	return m
}()

// environment is the process's, with the home directory that it lacks, and each name once.
func environment(process *specs.Process, root string) ([]string, error) {
	env := process.Env
	last := map[string]int{}
	for i, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return nil, refuse("%q is no variable", kv)
		}
		last[name] = i
	}
	out := make([]string, 0, len(env)+1)
	for i, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); last[name] == i {
			out = append(out, kv)
		}
	}
	if _, ok := last["HOME"]; !ok {
		out = append(out, "HOME="+home(root, process.User.UID))
	}
	return out, nil
}

// candidates are the files that may be meant by a program's name.
func candidates(name string, env []string) ([]string, error) {
	if strings.Contains(name, "/") {
		return []string{name}, nil
	}
	var files []string
	for _, kv := range env {
		path, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if !filepath.IsAbs(dir) {
				return nil, refuse("PATH has %q, which is not absolute", dir)
			}
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files, nil
}
