// Package config turns pods into what the container runtime is told: the
// configuration of a sandbox and of each instance of a container. It reads the
// objects that the spec refers to and the images' own settings, and writes the
// pod's /etc/hosts and the files for termination messages.
package config

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/env"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// Node is what configurations depend on besides the pod.
type Node struct {
	Name          string
	ClusterDNS    []string // addresses of the cluster's DNS
	ClusterDomain string   // "cluster.local"
	ResolvConf    string   // the host's; "" for none
	// Allocatable stands in for limits that are not set.
	Allocatable func() v1.ResourceList
	// MemoryBytes is all the node has: the scale of the OOM scores.
	MemoryBytes int64
	// MinOOMScoreAdj is the lowest the runtime may set, above -1000 where
	// CAP_SYS_RESOURCE is missing.
	MinOOMScoreAdj int64
	// CPUQuotaPeriod in microseconds, 100000 by default.
	CPUQuotaPeriod int64
	AppArmor       bool // the host's kernel enforces it
	// OOMGroup has a container killed as a whole when it runs out of memory. The
	// kernel can do so where cgroups are of version 2.
	OOMGroup bool
	// SeccompUnconfined turns the runtime's default profile off for pods that
	// ask for none.
	SeccompUnconfined bool
}

// Volumes is the part of the volumes that containers need.
type Volumes interface {
	Mounts(ctx context.Context, pod *v1.Pod, container *v1.Container, env map[string]string) ([]*runtimeapi.Mount, error)
}

// Events reports to people what happened to a pod.
type Events interface {
	Warning(pod *v1.Pod, reason, note string, args ...any)
}

// Handlers tells which runtime handler a RuntimeClass names.
type Handlers interface {
	Handler(ctx context.Context, runtimeClass string) (string, error)
}

// Builder makes configurations. It is safe for concurrent use.
type Builder struct {
	Node     Node
	Layout   layout.Layout
	Sources  env.Sources
	Volumes  Volumes
	Images   cri.Images
	Handlers Handlers
	Events   Events
}

// Handler returns the runtime handler of the pod's RuntimeClass, "" for the default.
func (b *Builder) Handler(ctx context.Context, pod *v1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	return b.Handlers.Handler(ctx, *pod.Spec.RuntimeClassName)
}

// Container returns the configuration of one instance of a container.
func (b *Builder) Container(ctx context.Context, pod *v1.Pod, c *v1.Container, start podsync.StartContainer) (*runtimeapi.ContainerConfig, error) {
	security, err := b.containerSecurity(ctx, pod, c, start)
	if err != nil {
		return nil, err
	}
	vars, err := env.Make(ctx, b.Sources, pod, c, b.Node.Allocatable())
	if err != nil {
		return nil, err
	}
	values := env.Map(vars)
	mounts, err := b.mounts(ctx, pod, c, start.Attempt, values)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(start.Attempt)},
		Image:    &runtimeapi.ImageSpec{Image: start.Image, UserSpecifiedImage: c.Image},
		Command:  env.ExpandAll(c.Command, values), Args: env.ExpandAll(c.Args, values),
		WorkingDir: c.WorkingDir,
		Mounts:     mounts,
		Labels:     cri.ContainerLabels(pod, c.Name), Annotations: cri.ContainerMarks(pod, c, start),
		LogPath: layout.LogPath(c.Name, start.Attempt),
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: b.Resources(pod, c), SecurityContext: security,
		},
	}
	for _, v := range vars {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: v.Name, Value: []byte(v.Value)})
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		config.StopSignal, err = stopSignal(*c.Lifecycle.StopSignal)
	}
	return config, err
}

// stopSignal translates the API's name of a signal to the runtime's.
func stopSignal(s v1.Signal) (runtimeapi.Signal, error) {
	name := "SIGNAL_" + strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(s))
	n, ok := runtimeapi.Signal_value[name]
	if !ok {
		return 0, fmt.Errorf("stop signal %s is not known to the container runtime", s)
	}
	return runtimeapi.Signal(n), nil
}

// Sandbox returns the configuration of the pod's sandbox.
func (b *Builder) Sandbox(ctx context.Context, pod *v1.Pod, attempt uint32, cgroupParent string) (*runtimeapi.PodSandboxConfig, error) {
	hostname, err := b.hostname(pod)
	if err != nil {
		return nil, err
	}
	dns, err := b.dns(pod)
	if err != nil {
		return nil, err
	}
	security, err := b.sandboxSecurity(pod)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: b.Layout.PodLogDir(pod),
		DnsConfig:    dns,
		Labels:       cri.SandboxLabels(pod), Annotations: pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: cgroupParent, SecurityContext: security, Sysctls: sysctls(pod),
			Overhead: b.overhead(pod), Resources: b.podResources(pod),
		},
	}
	if !pod.Spec.HostNetwork {
		config.Hostname = hostname
		config.PortMappings = portMappings(pod)
	}
	return config, nil
}

func sysctls(pod *v1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	m := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		m[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return m
}

// portMappings are the host ports that the network plugin opens for the pod.
func portMappings(pod *v1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, &runtimeapi.PortMapping{
					Protocol: protocol(p.Protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
				})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; podsync.KindOfInit(c) == podsync.Sidecar {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

func protocol(p v1.Protocol) runtimeapi.Protocol {
	switch p {
	case v1.ProtocolUDP:
		return runtimeapi.Protocol_UDP
	case v1.ProtocolSCTP:
		return runtimeapi.Protocol_SCTP
	}
	return runtimeapi.Protocol_TCP
}

const maxHostname = 63

// hostname returns the pod's name to itself, as its spec asks.
func (b *Builder) hostname(pod *v1.Pod) (string, error) {
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o, nil
	}
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
		if len(name) > maxHostname {
			name = strings.TrimRight(name[:maxHostname], "-.")
		}
	}
	domain := b.domain(pod)
	if asFQDN := pod.Spec.SetHostnameAsFQDN; asFQDN == nil || !*asFQDN || domain == "" {
		return name, nil
	}
	fqdn := name + "." + domain
	if len(fqdn) > 64 { // what the kernel holds
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", fqdn, len(fqdn))
	}
	return fqdn, nil
}

// domain is where the cluster's DNS has the pod, "" without a subdomain.
func (b *Builder) domain(pod *v1.Pod) string {
	if pod.Spec.Subdomain == "" || pod.Spec.HostnameOverride != nil {
		return ""
	}
	return strings.Join([]string{pod.Spec.Subdomain, pod.Namespace, "svc", b.Node.ClusterDomain}, ".")
}

// messageFile is the host's side of a termination message.
func (b *Builder) messageFile(pod *v1.Pod, container string, attempt int) string {
	return path.Join(b.Layout.ContainerDir(pod.UID, container), strconv.Itoa(attempt))
}
