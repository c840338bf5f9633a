package config

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/testing/fakecri"
)

type nothing struct{}

func (nothing) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}
func (nothing) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}
func (nothing) Services(context.Context, string) ([]*v1.Service, error) { return nil, nil }
func (nothing) File(*v1.Pod, string, string) ([]byte, error)            { return nil, os.ErrNotExist }
func (nothing) Mounts(context.Context, *v1.Pod, *v1.Container, map[string]string) ([]*runtimeapi.Mount, error) {
	return nil, nil
}

type notes struct{ list []string }

func (n *notes) Warning(_ *v1.Pod, reason, note string, args ...any) {
	n.list = append(n.list, reason+": "+fmt.Sprintf(note, args...))
}

func newBuilder(t *testing.T) (*Builder, *notes) {
	dir := t.TempDir()
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# host\nnameserver 9.9.9.9\nsearch corp.example\noptions timeout:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	events := &notes{}
	return &Builder{
		Node: Node{Name: "n1", ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", ResolvConf: resolv, MemoryBytes: 1 << 30,
			MinOOMScoreAdj: -1000, Allocatable: func() v1.ResourceList { return nil }},
		Layout: layout.Below(dir), Sources: nothing{}, Volumes: nothing{}, Images: fakecri.New("img"), Events: events,
	}, events
}

func testPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u1", Labels: map[string]string{"app": "x"}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "main", Image: "img"}}},
		Status:     v1.PodStatus{PodIP: "10.0.0.1", PodIPs: []v1.PodIP{{IP: "10.0.0.1"}}},
	}
}

func TestDNS(t *testing.T) {
	cluster := &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Options: []string{"ndots:5"},
		Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"}}
	host := &runtimeapi.DNSConfig{Servers: []string{"9.9.9.9"}, Searches: []string{"corp.example"}, Options: []string{"timeout:1"}}
	two := "2"
	tests := map[string]struct {
		change func(*v1.Pod)
		want   *runtimeapi.DNSConfig
		event  string
	}{
		"the cluster's first":          {func(p *v1.Pod) { p.Spec.DNSPolicy = v1.DNSClusterFirst }, cluster, ""},
		"the host's on its network":    {func(p *v1.Pod) { p.Spec.DNSPolicy, p.Spec.HostNetwork = v1.DNSClusterFirst, true }, host, ""},
		"the cluster's on the host's":  {func(p *v1.Pod) { p.Spec.DNSPolicy, p.Spec.HostNetwork = v1.DNSClusterFirstWithHostNet, true }, cluster, ""},
		"the host's by default policy": {func(p *v1.Pod) { p.Spec.DNSPolicy = v1.DNSDefault }, host, ""},
		"none but the pod's own": {func(p *v1.Pod) {
			p.Spec.DNSPolicy = v1.DNSNone
			p.Spec.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a.b"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}
		}, &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"a.b"}, Options: []string{"ndots:2", "edns0"}}, ""},
		"options are replaced by name": {func(p *v1.Pod) {
			p.Spec.DNSConfig = &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}
		}, &runtimeapi.DNSConfig{Servers: cluster.Servers, Searches: cluster.Searches, Options: []string{"ndots:2"}}, ""},
		"too many servers are cut off": {func(p *v1.Pod) {
			p.Spec.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3"}}
		}, &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10", "1.1.1.1", "1.1.1.2"}, Searches: cluster.Searches, Options: cluster.Options},
			"DNSConfigForming: Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 10.96.0.10 1.1.1.1 1.1.1.2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b, events := newBuilder(t)
			p := testPod()
			tt.change(p)
			got, err := b.dns(p)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != tt.want.String() {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if strings.Join(events.list, "\n") != tt.event {
				t.Errorf("events %q, want %q", events.list, tt.event)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	yes, root, user := true, int64(0), int64(7)
	tests := map[string]struct {
		uid      *int64
		username string // of the image
		runAs    *int64
		want     int64
		err      string
	}{
		"the image's number":            {uid: &user, want: 7},
		"the spec's before the image's": {uid: &root, runAs: &user, want: 7},
		"the spec's root":               {runAs: &root, err: `container's runAsUser breaks non-root policy (pod: "web_ns(u1)", container: main)`},
		"the image's root":              {uid: &root, err: `container has runAsNonRoot and image will run as root (pod: "web_ns(u1)", container: main)`},
		"an image that names nobody":    {err: `container has runAsNonRoot and image will run as root (pod: "web_ns(u1)", container: main)`},
		"an image that names someone":   {username: "www", err: `container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: "web_ns(u1)", container: main)`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b, _ := newBuilder(t)
			b.Images = oneImage{image: &runtimeapi.Image{Uid: int64Value(tt.uid), Username: tt.username}, Runtime: fakecri.New()}
			p := testPod()
			p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: tt.runAs}
			sc, err := b.containerSecurity(t.Context(), p, &p.Spec.Containers[0], podsync.StartContainer{Image: "img"})
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil || sc.RunAsUser.Value != tt.want {
				t.Errorf("user %v, %v, want %d", sc.GetRunAsUser(), err, tt.want)
			}
		})
	}
}

type oneImage struct {
	*fakecri.Runtime
	image *runtimeapi.Image
}

func (o oneImage) ImageStatus(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	return o.image, nil
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	critical := int32(systemNodeCritical)
	tests := map[string]struct {
		requests, limits             v1.ResourceList
		priority                     *int32
		shares, quota, memory, score int64
	}{
		"nothing asked":                     {shares: 2, score: 1000},
		"guaranteed":                        {requests: list("500m", "64Mi"), limits: list("500m", "64Mi"), shares: 512, quota: 50000, memory: 64 << 20, score: -997},
		"half the memory requested":         {requests: list("", "512Mi"), shares: 2, score: 500},
		"all the memory requested":          {requests: list("1", "1Gi"), shares: 1024, score: 3},
		"a limit only stands for a request": {limits: list("2", ""), shares: 2048, quota: 200000, score: 999},
		"a tiny limit":                      {requests: list("1m", ""), limits: list("1m", ""), shares: 2, quota: 1000, score: 999},
		"critical to the node":              {priority: &critical, shares: 2, score: -997},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b, _ := newBuilder(t)
			p := testPod()
			p.Spec.Priority = tt.priority
			p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: tt.requests, Limits: tt.limits}
			got := b.Resources(p, &p.Spec.Containers[0])
			if got.CpuShares != tt.shares || got.CpuQuota != tt.quota || got.MemoryLimitInBytes != tt.memory || got.OomScoreAdj != tt.score {
				t.Errorf("got %v, want shares %d, quota %d, memory %d, score %d", got, tt.shares, tt.quota, tt.memory, tt.score)
			}
			b.Node.MinOOMScoreAdj = 100
			if got := b.Resources(p, &p.Spec.Containers[0]).OomScoreAdj; got != max(tt.score, 100) {
				t.Errorf("score %d where 100 is the least allowed", got)
			}
		})
	}
}

// TestOOMGroup has containers killed as a whole where the kernel can.
func TestOOMGroup(t *testing.T) {
	b, _ := newBuilder(t)
	p := testPod()
	if got := b.Resources(p, &p.Spec.Containers[0]).Unified; len(got) > 0 {
		t.Errorf("where cgroups are of version 1 the runtime is told %v", got)
	}
	b.Node.OOMGroup = true
	if got := b.Resources(p, &p.Spec.Containers[0]).Unified["memory.oom.group"]; got != "1" {
		t.Errorf("memory.oom.group is %q", got)
	}
}

func TestHosts(t *testing.T) {
	b, _ := newBuilder(t)
	p := testPod()
	p.Spec.Hostname, p.Spec.Subdomain = "me", "db"
	p.Spec.HostAliases = []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}
	got, err := b.hosts(p)
	if err != nil {
		t.Fatal(err)
	}
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" +
		"10.0.0.1\tme.db.ns.svc.cluster.local\tme\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hosts file (-want +got):\n%s", diff)
	}
}

func TestHostname(t *testing.T) {
	yes := true
	long := strings.Repeat("a", 62) + "-b"
	for name, tt := range map[string]struct {
		change func(*v1.Pod)
		want   string
		err    bool
	}{
		"the pod's name":       {func(*v1.Pod) {}, "web", false},
		"cut to what fits":     {func(p *v1.Pod) { p.Name = long }, strings.Repeat("a", 62), false},
		"the spec's":           {func(p *v1.Pod) { p.Spec.Hostname = "h" }, "h", false},
		"with the domain":      {func(p *v1.Pod) { p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "s", &yes }, "web.s.ns.svc.cluster.local", false},
		"too long with domain": {func(p *v1.Pod) { p.Name, p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = long, "s", &yes }, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newBuilder(t)
			p := testPod()
			tt.change(p)
			if got, err := b.hostname(p); got != tt.want || (err != nil) != tt.err {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestContainer(t *testing.T) {
	b, _ := newBuilder(t)
	p := testPod()
	no, signal := false, v1.SIGUSR1
	c := &p.Spec.Containers[0]
	c.Command, c.Args = []string{"/run", "$(A)"}, []string{"--to=$(A)", "$(B)"}
	c.Env = []v1.EnvVar{{Name: "A", Value: "x"}}
	c.TerminationMessagePath = "/dev/termination-log"
	c.SecurityContext = &v1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &v1.Capabilities{Add: []v1.Capability{"NET_ADMIN"}, Drop: []v1.Capability{"ALL"}}}
	c.Lifecycle = &v1.Lifecycle{StopSignal: &signal}
	got, err := b.Container(t.Context(), p, c, podsync.StartContainer{Container: "main", Image: "img", Attempt: 3})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/run", "x", "--to=x", "$(B)"}, append(got.Command, got.Args...)); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	sc := got.Linux.SecurityContext
	if !sc.NoNewPrivs || sc.Seccomp.ProfileType != runtimeapi.SecurityProfile_RuntimeDefault || sc.Capabilities.AddCapabilities[0] != "NET_ADMIN" || len(sc.MaskedPaths) == 0 {
		t.Errorf("security context %v", sc)
	}
	if got.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 || got.LogPath != "main/3.log" || got.Metadata.Attempt != 3 {
		t.Errorf("signal %v, log %s, attempt %d", got.StopSignal, got.LogPath, got.Metadata.Attempt)
	}
	var paths []string
	for _, m := range got.Mounts {
		paths = append(paths, m.ContainerPath)
		if info, err := os.Stat(m.HostPath); err != nil || m.ContainerPath == "/dev/termination-log" && info.Mode().Perm() != 0o666 {
			t.Errorf("mount %v: %v, %v", m, info, err)
		}
	}
	if diff := cmp.Diff([]string{"/etc/hosts", "/dev/termination-log"}, paths); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	b, _ := newBuilder(t)
	outside := "../x"
	for name, tt := range map[string]struct {
		change func(*v1.Pod)
		err    string
	}{
		"AppArmor without AppArmor": {func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}}
		}, "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		"a seccomp profile outside": {func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &outside}}
		}, `seccomp profile "../x" is not inside the node's seccomp directory`},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPod()
			tt.change(p)
			if _, err := b.Container(t.Context(), p, &p.Spec.Containers[0], podsync.StartContainer{Image: "img"}); err == nil || err.Error() != tt.err {
				t.Errorf("error %v, want %s", err, tt.err)
			}
		})
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 1.1.1.1\nsearch a b\noptions ndots:5 # x")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range ParseResolvConf(text).Servers {
			if strings.ContainsAny(s, " \t\n#;") {
				t.Errorf("server %q", s)
			}
		}
	})
}
