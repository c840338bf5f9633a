package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// state is runc's record of a container, of which runc exec, update, pause and the like make theirs.
type state struct {
	ID                  string                           `json:"id"`
	InitProcessPid      int                              `json:"init_process_pid"`
	InitProcessStart    uint64                           `json:"init_process_start"`
	Created             time.Time                        `json:"created"`
	Config              *configs.Config                  `json:"config"`
	CgroupPaths         map[string]string                `json:"cgroup_paths"`
	NamespacePaths      map[configs.NamespaceType]string `json:"namespace_paths"`
	ExternalDescriptors []string                         `json:"external_descriptors"`
}

// Record returns what runc is to know of the container: its first process, which began at start (ticks
// since the machine did), its cgroup, and the directories of that.
func (b *Bundle) Record(pid int, start uint64, group *cgroups.Cgroup, paths map[string]string) ([]byte, error) {
	config, err := b.config(group)
	if err != nil {
		return nil, err
	}
	s := state{
		ID: b.ID, InitProcessPid: pid, InitProcessStart: start, Created: time.Now().UTC(), Config: config,
		CgroupPaths: paths, NamespacePaths: map[configs.NamespaceType]string{},
	}
	for kind, file := range map[configs.NamespaceType]string{
		configs.NEWCGROUP: "cgroup", configs.NEWIPC: "ipc", configs.NEWNET: "net", configs.NEWNS: "mnt",
		configs.NEWPID: "pid", configs.NEWTIME: "time", configs.NEWUSER: "user", configs.NEWUTS: "uts",
	} {
		if name := fmt.Sprintf("/proc/%d/ns/%s", pid, file); exists(name) {
			s.NamespacePaths[kind] = name
		}
	}
	for fd := range 3 {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
		if err != nil {
			return nil, fmt.Errorf("recording the container's descriptors: %w", err)
		}
		s.ExternalDescriptors = append(s.ExternalDescriptors, name)
	}
	return json.Marshal(s)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// config is the container in runc's terms, as far as something is done by it later on: who joins it must
// be confined as its first process is.
func (b *Bundle) config(group *cgroups.Cgroup) (*configs.Config, error) {
	process, linux := b.Spec.Process, b.Spec.Linux
	filter, err := filterConfig(linux.Seccomp)
	if err != nil {
		return nil, err
	}
	c := &configs.Config{
		Rootfs: b.Root, Umask: process.User.Umask, Readonlyfs: b.Spec.Root.Readonly, Cgroups: group, Devices: defaultDevices,
		Capabilities: &configs.Capabilities{
			Bounding: process.Capabilities.Bounding, Effective: process.Capabilities.Effective, Permitted: process.Capabilities.Permitted,
			Inheritable: process.Capabilities.Inheritable, Ambient: process.Capabilities.Ambient,
		},
		OomScoreAdj: process.OOMScoreAdj, NoNewPrivileges: process.NoNewPrivileges, Seccomp: filter,
		MaskPaths: linux.MaskedPaths, ReadonlyPaths: linux.ReadonlyPaths, Version: b.Spec.Version,
	}
	kinds := map[specs.LinuxNamespaceType]configs.NamespaceType{
		specs.PIDNamespace: configs.NEWPID, specs.NetworkNamespace: configs.NEWNET, specs.MountNamespace: configs.NEWNS,
		specs.IPCNamespace: configs.NEWIPC, specs.UTSNamespace: configs.NEWUTS, specs.CgroupNamespace: configs.NEWCGROUP,
	}
	for _, ns := range linux.Namespaces {
		c.Namespaces = append(c.Namespaces, configs.Namespace{Type: kinds[ns.Type], Path: ns.Path})
	}
	for k, v := range b.Spec.Annotations {
		c.Labels = append(c.Labels, k+"="+v)
	}
	c.Labels = append(c.Labels, "bundle="+b.Dir)
	for _, m := range b.Spec.Mounts {
		o, err := optionsOf(m)
		if err != nil {
			return nil, err
		}
		c.Mounts = append(c.Mounts, &configs.Mount{Source: m.Source, Destination: path.Clean(m.Destination), Device: m.Type, Flags: int(o.flags)})
	}
	return c, nil
}

// filterConfig is a seccomp profile in runc's terms.
func filterConfig(s *specs.LinuxSeccomp) (*configs.Seccomp, error) {
	if s == nil {
		return nil, nil
	}
	action, err := seccomp.ConvertStringToAction(string(s.DefaultAction))
	if err != nil {
		return nil, refuse("%v", err)
	}
	c := &configs.Seccomp{DefaultAction: action, DefaultErrnoRet: s.DefaultErrnoRet, Flags: s.Flags}
	for _, name := range s.Architectures {
		arch, err := seccomp.ConvertStringToArch(string(name))
		if err != nil {
			return nil, refuse("%v", err)
		}
		c.Architectures = append(c.Architectures, arch)
	}
	for _, rule := range s.Syscalls {
		action, err := seccomp.ConvertStringToAction(string(rule.Action))
		if err != nil {
			return nil, refuse("%v", err)
		}
		var args []*configs.Arg
		for _, a := range rule.Args {
			op, err := seccomp.ConvertStringToOperator(string(a.Op))
			if err != nil {
				return nil, refuse("%v", err)
			}
			args = append(args, &configs.Arg{Index: a.Index, Value: a.Value, ValueTwo: a.ValueTwo, Op: op})
		}
		for _, name := range rule.Names {
			c.Syscalls = append(c.Syscalls, &configs.Syscall{Name: name, Action: action, ErrnoRet: rule.ErrnoRet, Args: args})
		}
	}
	return c, nil
}
