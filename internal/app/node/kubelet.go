package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/kubelet"
	"skiff.dev/skiff/internal/kubelet/cri/config"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/objects"
	"skiff.dev/skiff/internal/kubelet/podcgroup"
	"skiff.dev/skiff/internal/kubelet/server"
	"skiff.dev/skiff/internal/kubelet/stats"
	"skiff.dev/skiff/internal/kubelet/volume"
	"skiff.dev/skiff/internal/mount"
	"skiff.dev/skiff/internal/observe"
)

// KubeletServer is how the kubelet's API is served. Who may use it is asked of
// the API server.
type KubeletServer struct {
	Port           int
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCAs      *x509.CertPool
}

// runKubelet runs the node's pods.
func (n *Node) runKubelet(ctx context.Context, g *errgroup.Group) error {
	l := layout.Below(n.KubeletDir)
	if n.Settings.PodLogs != "" {
		l.PodLogs = n.Settings.PodLogs
	}
	root := cgroup.RootOf(n.DataDir)
	tree, err := cgroup.New(root)
	if err != nil {
		return fmt.Errorf("opening control groups: %w", err)
	}
	groups, err := podcgroup.New(tree, root, n.Settings.PIDLimit)
	if err != nil {
		return err
	}
	report, err := n.register(ctx, g)
	if err != nil {
		return err
	}
	if err := groups.Limit(report.ForPods()); err != nil {
		return err
	}
	objs := objects.New(n.Client, n.Name, n.Log)
	defer objs.Close()
	volumes := volume.New(volume.Config{Layout: l, Mounter: mount.New(), Objects: objs, Log: n.Log,
		Allocatable: report.Allocatable, RecursiveReadOnly: report.RecursiveReadOnly})
	g.Go(func() error { volumes.Run(ctx); return nil })
	k := kubelet.New(kubelet.Config{
		Client: n.Client, Events: n.events, Runtime: n.cri, Images: n.cri, Volumes: volumes, Cgroups: groups,
		Node: config.Node{
			Name: n.Name, ClusterDNS: n.dnsServers(), ClusterDomain: n.ClusterDomain, ResolvConf: n.Settings.ResolvConf,
			Allocatable: report.Allocatable, MemoryBytes: memoryBytes(), MinOOMScoreAdj: minOOMScoreAdj(),
			OOMGroup: tree.Version() == cgroup.V2 && !n.Settings.SingleProcessOOM, SeccompUnconfined: n.Settings.SeccompUnconfined,
		},
		HostIPs: func() []string { return []string{n.IP.String()} },
		Layout:  l, StaticPodPath: n.StaticPodPath, MaxPods: n.MaxPods, UnsafeSysctls: n.Settings.UnsafeSysctls,
		Pulls: n.Settings.Pulls, Logs: n.Settings.Logs, Log: n.Log, Registry: n.Metrics,
	})
	pages := stats.New(stats.Config{Node: n.Name, Tree: tree, Groups: groups, Runtime: n.cri, Pods: k.Pods, Layout: l, Log: n.Log}).Handlers()
	pages["/metrics"] = observe.MetricsPage(n.Metrics)
	g.Go(func() error { return n.serveKubelet(ctx, k, l, pages) })
	return k.Run(ctx)
}

// dnsServers is the cluster's DNS as pods are told of it; none leaves them with
// the host's resolvers.
func (n *Node) dnsServers() []string {
	if n.Settings.DNSServers != nil || !n.ClusterDNS.IsValid() {
		return n.Settings.DNSServers
	}
	return []string{n.ClusterDNS.String()}
}

// serveKubelet serves the kubelet's own API.
func (n *Node) serveKubelet(ctx context.Context, k *kubelet.Kubelet, l layout.Layout, pages map[string]http.Handler) error {
	address := net.JoinHostPort(n.Settings.Address, strconv.Itoa(n.Kubelet.Port))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("the kubelet's API cannot be served on %s (choose another --kubelet-port): %w", address, err)
	}
	return server.New(server.Config{
		Pods: k, Runtime: n.cri, Layout: l, Access: server.NewReviews(n.Client, n.Name, n.Settings.ReviewsLast), Log: n.Log,
		GetCertificate: n.Kubelet.GetCertificate, ClientCAs: n.Kubelet.ClientCAs,
		Handlers: pages, TLS: n.Settings.TLS, SystemLogs: n.Settings.SystemLogs,
	}).Serve(ctx, listener)
}

// memoryBytes is all the memory the host has.
func memoryBytes() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// minOOMScoreAdj is the lowest value a child may be given: without
// CAP_SYS_RESOURCE, the one this process has itself.
func minOOMScoreAdj() int64 {
	const lowest = -1000
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&head, &data[0]) == nil && data[unix.CAP_SYS_RESOURCE/32].Effective&(1<<(unix.CAP_SYS_RESOURCE%32)) != 0 {
		return lowest
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	own, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return own
}
