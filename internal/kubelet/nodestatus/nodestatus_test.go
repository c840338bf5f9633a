package nodestatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/watchcache"
)

// server is an API that holds one node and its lease.
type server struct {
	client.Transport
	mu      sync.Mutex
	rev     int64
	nodes   *watchcache.Table
	lease   *coordinationv1.Lease
	patches []string
	renewed int
	down    bool
}

func (s *server) Table(context.Context, schema.GroupVersionResource, watchcache.Scope) (*watchcache.Table, error) {
	return s.nodes, nil
}

func (s *server) put(n *v1.Node) *v1.Node {
	s.rev++
	n.ResourceVersion = strconv.FormatInt(s.rev, 10)
	s.nodes.Apply([]watchcache.Change{{Key: meta.KeyOf(n), Object: n, Rev: s.rev}}, s.rev)
	return n
}

func (s *server) node() *v1.Node {
	item, ok := s.nodes.Get(meta.Key{Name: "n1"})
	if !ok {
		return nil
	}
	return item.Object.(*v1.Node)
}

func (s *server) Get(_ context.Context, ref client.Ref, _ metav1.GetOptions) (meta.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errors.New("connection refused")
	}
	if ref.Resource == "leases" && s.lease != nil {
		return s.lease, nil
	}
	if n := s.node(); ref.Resource == "nodes" && n != nil {
		return n, nil
	}
	return nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name)
}

func (s *server) Create(_ context.Context, ref client.Ref, obj runtime.Object, _ metav1.CreateOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errors.New("connection refused")
	}
	if l, ok := obj.(*coordinationv1.Lease); ok {
		s.lease = l
		s.renewed++
		return l, nil
	}
	n := obj.(*v1.Node).DeepCopy()
	n.UID = types.UID(fmt.Sprint("uid-", s.rev))
	return s.put(n), nil
}

func (s *server) Update(_ context.Context, _ client.Ref, obj meta.Object, _ metav1.UpdateOptions) (meta.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errors.New("connection refused")
	}
	s.lease = obj.(*coordinationv1.Lease)
	s.renewed++
	return s.lease, nil
}

func (s *server) Patch(_ context.Context, ref client.Ref, _ types.PatchType, data []byte, _ metav1.PatchOptions) (meta.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node()
	if s.down || n == nil {
		return nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name)
	}
	s.patches = append(s.patches, ref.Subresource)
	before, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(before, data, n)
	if err != nil {
		return nil, err
	}
	next := &v1.Node{}
	if err := json.Unmarshal(merged, next); err != nil {
		return nil, err
	}
	return s.put(next), nil
}

// cri is a runtime that says what the test sets.
type cri struct {
	mu      sync.Mutex
	network bool
	images  []*runtimeapi.Image
	lists   int
}

func (c *cri) Version(context.Context) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "v2.4.2"}, nil
}

func (c *cri) Status(context.Context) (*runtimeapi.StatusResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	network := &runtimeapi.RuntimeCondition{Type: "NetworkReady", Status: c.network}
	if !c.network {
		network.Reason, network.Message = "NetworkPluginNotReady", "Network plugin returns error: cni plugin not initialized"
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: "RuntimeReady", Status: true}, network,
	}}}, nil
}

func (c *cri) ListImages(context.Context) ([]*runtimeapi.Image, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	return c.images, nil
}

type noEvents struct {
	mu   sync.Mutex
	list []string
}

func (e *noEvents) Normal(_ meta.Object, reason, _ string, _ ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, reason)
}
func (e *noEvents) Warning(o meta.Object, reason, note string, args ...any) {
	e.Normal(o, reason, note, args...)
}

func testConfig() Config {
	return Config{
		Name: "n1", Port: 10250, MaxPods: 110, MaxImages: DefaultMaxImages, LeaseSeconds: DefaultLeaseSeconds, Reserve: DefaultReserve(), Log: slog.New(slog.DiscardHandler),
		HostIPs: func() []string { return []string{"192.0.2.1", "2001:db8::1"} },
		Machine: Machine{CPUs: 2, Memory: 4 << 30, Storage: 1000 << 20, Hostname: "Host-1", OS: "linux", Arch: "amd64", Kernel: "6.18",
			HugePages: map[string]int64{"2Mi": 4 << 20}},
		Labels: map[string]string{"pool": "a"}, Taints: []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}},
	}
}

func TestReporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rt, ev := &server{nodes: watchcache.NewTable("nodes"), rev: 1}, &cri{}, &noEvents{}
		s.nodes.Replace(nil, 1)
		c := testConfig()
		c.Client, c.Events, c.Runtime = client.New(s), ev, rt
		var cidrs [][]string
		c.PodCIDRs = func(list []string) { cidrs = append(cidrs, list) }
		r := New(c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		synctest.Wait()
		n := s.node()
		ready := node.Condition(&n.Status, v1.NodeReady)
		if want := "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"; ready.Message != want || ready.Reason != "KubeletNotReady" {
			t.Errorf("at first: %+v", ready)
		}
		wantLabels := map[string]string{"pool": "a", "kubernetes.io/hostname": "host-1", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64"}
		if diff := cmp.Diff(wantLabels, n.Labels); diff != "" {
			t.Error(diff)
		}
		if len(n.Spec.Taints) != 1 || n.Annotations[managedAttach] != "true" {
			t.Errorf("registered as %v %v", n.Spec.Taints, n.Annotations)
		}
		rt.mu.Lock()
		rt.network = true
		rt.mu.Unlock()
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		select {
		case <-r.Ready():
		default:
			t.Error("not ready soon after the network came")
		}
		if len(s.node().Status.Addresses) != 3 {
			t.Errorf("addresses: %v", s.node().Status.Addresses)
		}
		// Others own parts of the node.
		other := s.node().DeepCopy()
		other.Status.Conditions = append(other.Status.Conditions, v1.NodeCondition{Type: "NetworkUnavailable", Status: "False"})
		other.Status.Capacity["example.com/gpu"] = resource.MustParse("2")
		other.Spec.PodCIDR, other.Spec.PodCIDRs = "10.42.0.0/24", []string{"10.42.0.0/24"}
		s.mu.Lock()
		s.put(other)
		s.patches, s.renewed = nil, 0
		s.mu.Unlock()
		time.Sleep(4*time.Minute + 30*time.Second)
		synctest.Wait()
		if len(s.patches) != 0 || s.renewed != 27 {
			t.Errorf("an idle node in 4.5 minutes: patches %v, %d renewals", s.patches, s.renewed)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(s.patches, []string{"status"}) {
			t.Errorf("after 5 minutes: %v", s.patches)
		}
		if got := s.node(); node.Condition(&got.Status, "NetworkUnavailable") == nil || got.Status.Capacity.Name("example.com/gpu", "").Value() != 2 {
			t.Errorf("what others wrote is gone: %v", got.Status)
		}
		if diff := cmp.Diff([][]string{{"10.42.0.0/24"}}, cidrs); diff != "" {
			t.Error(diff)
		}
		// Someone deletes the node: it comes back, and its lease gets the new owner.
		s.mu.Lock()
		old := s.node().UID
		s.rev++
		s.nodes.Apply([]watchcache.Change{{Key: meta.Key{Name: "n1"}, Rev: s.rev}}, s.rev)
		s.mu.Unlock()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := s.node(); got == nil || got.UID == old || !node.IsReady(got) || s.lease.OwnerReferences[0].UID != got.UID {
			t.Errorf("after deletion: %v, lease %v", got, s.lease.OwnerReferences)
		}
		// An outage of the API is waited out.
		s.mu.Lock()
		s.down = true
		s.mu.Unlock()
		time.Sleep(time.Minute)
		s.mu.Lock()
		s.down = false
		s.renewed = 0
		s.mu.Unlock()
		time.Sleep(2 * retryMax)
		synctest.Wait()
		if s.renewed == 0 {
			t.Error("the lease is not renewed after an outage")
		}
		// The images are listed when they have changed.
		rt.mu.Lock()
		rt.images = []*runtimeapi.Image{{RepoTags: []string{"a:1"}, Size: 5}}
		rt.mu.Unlock()
		r.ImagesChanged()
		synctest.Wait()
		if got := s.node().Status.Images; len(got) != 1 || got[0].Names[0] != "a:1" {
			t.Errorf("images: %v", got)
		}
		cancel()
		<-done
		want := []string{"Starting", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeNotReady", "NodeReady"}
		for _, reason := range want {
			if !slices.Contains(ev.list, reason) {
				t.Errorf("event %s was not reported: %v", reason, ev.list)
			}
		}
	})
}

func TestResources(t *testing.T) {
	c := testConfig()
	c.Reserve.System = v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("1Gi")}
	show := func(l v1.ResourceList) map[string]string {
		out := map[string]string{}
		for name, q := range l {
			out[string(name)] = q.String()
		}
		return out
	}
	want := map[string]string{"cpu": "2", "memory": "4Gi", "ephemeral-storage": "1000Mi", "pods": "110", "hugepages-2Mi": "4Mi"}
	if diff := cmp.Diff(want, show(capacity(&c.Machine, c.MaxPods))); diff != "" {
		t.Error(diff)
	}
	want = map[string]string{"cpu": "1500m", "memory": "2968Mi", "ephemeral-storage": "943718400", "pods": "110", "hugepages-2Mi": "4Mi"}
	want["ephemeral-storage"] = "900Mi"
	if diff := cmp.Diff(want, show(allocatable(&c.Machine, c.MaxPods, c.Reserve))); diff != "" {
		t.Error(diff)
	}
	c.Reserve.Kube = v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Ti")}
	if got := allocatable(&c.Machine, c.MaxPods, c.Reserve); got.Memory().Sign() != 0 {
		t.Errorf("more reserved than there is: %v", got.Memory())
	}
}

func TestReadiness(t *testing.T) {
	cond := func(t string, ok bool) *runtimeapi.RuntimeCondition {
		return &runtimeapi.RuntimeCondition{Type: t, Status: ok, Reason: "R", Message: "m"}
	}
	for name, tt := range map[string]struct {
		rt   seen
		want string
	}{
		"ready":   {seen{status: &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{cond("RuntimeReady", true), cond("NetworkReady", true)}}}}, "kubelet is posting ready status"},
		"neither": {seen{status: &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{cond("RuntimeReady", false), cond("NetworkReady", false)}}}}, "[container runtime not ready: RuntimeReady=false reason:R message:m, container runtime network not ready: NetworkReady=false reason:R message:m]"},
		"down":    {seen{err: errors.New("refused")}, "container runtime is down: refused"},
	} {
		all := conditions(Pressure{Memory: true}, readiness(tt.rt))
		if got := all[3].Message; got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
		if all[0].Status != v1.ConditionTrue || all[0].Reason != "KubeletHasInsufficientMemory" {
			t.Errorf("%s: %v", name, all[0])
		}
	}
}

func TestImageList(t *testing.T) {
	var images []*runtimeapi.Image
	for i := range 60 {
		images = append(images, &runtimeapi.Image{RepoTags: []string{fmt.Sprint("i:", i)}, RepoDigests: slices.Repeat([]string{"d"}, 5), Size: uint64(i)})
	}
	images = append(images, &runtimeapi.Image{Id: "nameless", Size: 1000})
	if all, none := imageList(images, -1), imageList(images, 0); len(all) != 60 || len(none) != 0 {
		t.Errorf("%d and %d images", len(all), len(none))
	}
	got := imageList(images, DefaultMaxImages)
	if len(got) != 50 || got[0].SizeBytes != 59 || got[49].SizeBytes != 10 || len(got[0].Names) != 5 {
		t.Errorf("%d images, first %v, last %v", len(got), got[0], got[len(got)-1])
	}
}

func TestReadMachine(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/meminfo":                   "MemTotal:        1024 kB\nSwapTotal:  8 kB\nHugePages_Total: 3\n",
		"proc/sys/kernel/random/boot_id": "boot\n",
		"proc/sys/kernel/osrelease":      "6.1.0\n",
		"etc/machine-id":                 "machine\n",
		"etc/os-release":                 "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":    "3\n",
		"sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
	} {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readMachine(root)
	if err != nil {
		t.Fatal(err)
	}
	got.OS, got.Arch = "", ""
	want := Machine{Memory: 1 << 20, Swap: 8 << 10, HugePages: map[string]int64{"2Mi": 6 << 20, "1Gi": 0}, BootID: "boot", Kernel: "6.1.0",
		MachineID: "machine", SystemUUID: "machine", OSImage: "Debian GNU/Linux 12"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	real, err := ReadMachine(t.TempDir())
	if err != nil || real.Memory < 64<<20 || real.CPUs < 1 || real.Storage == 0 || strings.TrimSpace(real.Kernel) == "" {
		t.Errorf("this machine: %+v %v", real, err)
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	yes, no := true, false
	handler := func(name string, can *bool) v1.NodeRuntimeHandler {
		return v1.NodeRuntimeHandler{Name: name, Features: &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: can}}
	}
	for name, tt := range map[string]struct {
		handlers       []v1.NodeRuntimeHandler
		plain, ofClass bool
	}{
		"none":     {nil, false, false},
		"all":      {[]v1.NodeRuntimeHandler{handler("", &yes), handler("runc", &yes)}, true, true},
		"only one": {[]v1.NodeRuntimeHandler{handler("", &yes), handler("vm", &no)}, true, false},
		"silent":   {[]v1.NodeRuntimeHandler{{Name: ""}}, false, false},
	} {
		r := New(testConfig())
		r.node = &v1.Node{Status: v1.NodeStatus{RuntimeHandlers: tt.handlers}}
		if plain, ofClass := r.RecursiveReadOnly(""), r.RecursiveReadOnly("c"); plain != tt.plain || ofClass != tt.ofClass {
			t.Errorf("%s: %v without a class, %v with one", name, plain, ofClass)
		}
	}
	if New(testConfig()).RecursiveReadOnly("") {
		t.Error("before the node is known")
	}
}
