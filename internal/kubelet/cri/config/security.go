package config

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/podsync"
)

// What containers must not see or change of /proc and /sys.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// effective is the security context of a container with the pod's filled in.
func effective(pod *v1.Pod, c *v1.Container) *v1.SecurityContext {
	out := &v1.SecurityContext{}
	if c.SecurityContext != nil {
		out = c.SecurityContext.DeepCopy()
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	fill(&out.RunAsUser, p.RunAsUser)
	fill(&out.RunAsGroup, p.RunAsGroup)
	fill(&out.RunAsNonRoot, p.RunAsNonRoot)
	fill(&out.SELinuxOptions, p.SELinuxOptions)
	fill(&out.SeccompProfile, p.SeccompProfile)
	fill(&out.AppArmorProfile, p.AppArmorProfile)
	return out
}

func fill[T any](to **T, from *T) {
	if *to == nil {
		*to = from
	}
}

func isTrue(b *bool) bool { return b != nil && *b }

func (b *Builder) containerSecurity(ctx context.Context, pod *v1.Pod, c *v1.Container, start podsync.StartContainer) (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effective(pod, c)
	uid, username, err := b.identity(ctx, pod, c, sc, start.Image)
	if err != nil {
		return nil, err
	}
	seccomp, err := b.seccomp(sc.SeccompProfile, isTrue(sc.Privileged))
	if err != nil {
		return nil, err
	}
	apparmor, err := b.appArmor(sc.AppArmorProfile, isTrue(sc.Privileged))
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		Privileged:       isTrue(sc.Privileged),
		NamespaceOptions: namespaces(pod),
		SelinuxOptions:   selinux(sc.SELinuxOptions),
		RunAsUser:        int64Value(uid), RunAsUsername: username, RunAsGroup: int64Value(sc.RunAsGroup),
		ReadonlyRootfs:           isTrue(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:               sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		SupplementalGroups:       supplementalGroups(pod),
		SupplementalGroupsPolicy: groupsPolicy(pod),
		Seccomp:                  seccomp, Apparmor: apparmor,
		MaskedPaths: slices.Clone(maskedPaths), ReadonlyPaths: slices.Clone(readonlyPaths),
	}
	if sc.ProcMount != nil && *sc.ProcMount == v1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = nil, nil
	}
	if caps := sc.Capabilities; caps != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, k := range caps.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(k))
		}
		for _, k := range caps.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(k))
		}
	}
	if target := targetOf(pod, c.Name); target != "" {
		id, err := runningID(pod, target)
		if err != nil {
			return nil, err
		}
		out.NamespaceOptions.Pid, out.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, id
	}
	return out, nil
}

// identity returns whom a container runs as, as far as spec and image say, and
// refuses root where runAsNonRoot forbids it.
func (b *Builder) identity(ctx context.Context, pod *v1.Pod, c *v1.Container, sc *v1.SecurityContext, image string) (*int64, string, error) {
	if sc.RunAsUser != nil {
		if isTrue(sc.RunAsNonRoot) && *sc.RunAsUser == 0 {
			return nil, "", fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", podsync.Format(pod), c.Name)
		}
		return sc.RunAsUser, "", nil
	}
	status, err := b.Images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: image})
	if err != nil {
		return nil, "", fmt.Errorf("looking up the user of image %q: %w", c.Image, err)
	}
	if status == nil {
		return nil, "", fmt.Errorf("image %q is not present any more", c.Image)
	}
	var uid *int64
	if status.Uid != nil {
		uid = &status.Uid.Value
	} else if status.Username == "" {
		uid = new(int64) // an image that names nobody runs as root
	}
	if isTrue(sc.RunAsNonRoot) {
		switch {
		case uid != nil && *uid == 0:
			return nil, "", fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", podsync.Format(pod), c.Name)
		case uid == nil:
			return nil, "", fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)",
				status.Username, podsync.Format(pod), c.Name)
		}
	}
	return uid, status.Username, nil
}

// seccomp returns the profile asked for; without one the runtime's default.
func (b *Builder) seccomp(p *v1.SeccompProfile, privileged bool) (*runtimeapi.SecurityProfile, error) {
	unconfined := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	switch {
	case privileged, p == nil && b.Node.SeccompUnconfined:
		return unconfined, nil
	case p == nil, p.Type == v1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case p.Type == v1.SeccompProfileTypeUnconfined:
		return unconfined, nil
	case p.Type == v1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		if !filepath.IsLocal(*p.LocalhostProfile) {
			return nil, fmt.Errorf("seccomp profile %q is not inside the node's seccomp directory", *p.LocalhostProfile)
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost,
			LocalhostRef: filepath.Join(b.Layout.SeccompDir(), *p.LocalhostProfile)}, nil
	}
	return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
}

// appArmor returns the profile asked for. Where the host does not enforce
// AppArmor, a container that asks for a profile does not start rather than
// start unprotected.
func (b *Builder) appArmor(p *v1.AppArmorProfile, privileged bool) (*runtimeapi.SecurityProfile, error) {
	if p == nil {
		return nil, nil // the runtime's default, where the host has AppArmor
	}
	if p.Type == v1.AppArmorProfileTypeUnconfined || privileged {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	}
	if !b.Node.AppArmor {
		return nil, errors.New("Cannot enforce AppArmor: AppArmor is not enabled on the host")
	}
	if p.Type == v1.AppArmorProfileTypeLocalhost {
		if p.LocalhostProfile == nil {
			return nil, errors.New("missing localhost apparmor profile name")
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}, nil
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
}

func selinux(o *v1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

// supplementalGroups are those of the pod and the group of its volumes.
func supplementalGroups(pod *v1.Pod) []int64 {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	groups := slices.Clone(sc.SupplementalGroups)
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	return groups
}

func groupsPolicy(pod *v1.Pod) runtimeapi.SupplementalGroupsPolicy {
	sc := pod.Spec.SecurityContext
	if sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

// namespaces says which namespaces the pod shares with the host and its
// containers with each other.
func namespaces(pod *v1.Pod) *runtimeapi.NamespaceOption {
	out := &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_POD, Ipc: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER,
	}
	if pod.Spec.HostNetwork {
		out.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		out.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		out.Pid = runtimeapi.NamespaceMode_NODE
	case isTrue(pod.Spec.ShareProcessNamespace):
		out.Pid = runtimeapi.NamespaceMode_POD
	}
	return out
}

// targetOf returns the container whose processes an ephemeral one is to see.
func targetOf(pod *v1.Pod, ephemeral string) string {
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == ephemeral {
			return e.TargetContainerName
		}
	}
	return ""
}

func runningID(pod *v1.Pod, container string) (string, error) {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container && list[i].State.Running != nil {
				return podsync.RuntimeID(list[i].ContainerID), nil
			}
		}
	}
	return "", fmt.Errorf("unable to find target container %s", container)
}

func (b *Builder) sandboxSecurity(pod *v1.Pod) (*runtimeapi.LinuxSandboxSecurityContext, error) {
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return nil, errors.New("user namespaces (spec.hostUsers: false) are not supported by this node")
	}
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions:         namespaces(pod),
		SupplementalGroups:       supplementalGroups(pod),
		SupplementalGroupsPolicy: groupsPolicy(pod),
		Seccomp:                  &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		out.SelinuxOptions = selinux(sc.SELinuxOptions)
		out.RunAsUser = int64Value(sc.RunAsUser)
		if sc.RunAsUser != nil {
			out.RunAsGroup = int64Value(sc.RunAsGroup)
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && isTrue(sc.Privileged) {
				out.Privileged = true
			}
		}
	}
	return out, nil
}
