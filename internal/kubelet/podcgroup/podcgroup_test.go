package podcgroup

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/cgroup"
)

func list(cpu, memory string) v1.ResourceList {
	l := v1.ResourceList{}
	if cpu != "" {
		l[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func testPod(uid types.UID, requests, limits v1.ResourceList) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Spec: v1.PodSpec{Containers: []v1.Container{
		{Name: "a", Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}},
	}}}
}

func of[T any](v T) *T { return &v }

func TestEnsurePod(t *testing.T) {
	const root = "/skiff-test"
	tests := map[string]struct {
		pod  *v1.Pod
		path string
		want cgroup.Resources
	}{
		"guaranteed": {testPod("g", list("500m", "64Mi"), list("500m", "64Mi")), root + "/kubepods/podg",
			cgroup.Resources{CPUShares: of[uint64](512), CPUQuota: of[int64](50000), CPUPeriod: of[uint64](100000), Memory: of[int64](64 << 20), Pids: of[int64](99)}},
		"burstable": {testPod("b", list("2", ""), nil), root + "/kubepods/burstable/podb",
			cgroup.Resources{CPUShares: of[uint64](2048), Pids: of[int64](99)}},
		"best effort": {testPod("e", nil, nil), root + "/kubepods/besteffort/pode",
			cgroup.Resources{CPUShares: of[uint64](2), Pids: of[int64](99)}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tree, err := cgroup.NewFake(root)
			if err != nil {
				t.Fatal(err)
			}
			g, err := New(tree, root, 99)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time changes nothing
				if got, err := g.EnsurePod(tt.pod); err != nil || got != tt.path {
					t.Fatalf("path %s, %v, want %s", got, err, tt.path)
				}
			}
			got, err := tree.Resources(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
			if err := g.RemovePod(tt.pod.UID); err != nil {
				t.Fatal(err)
			}
			if _, err := tree.Resources(tt.path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after removal: %v, want that it is not there", err)
			}
			if err := g.RemovePod(tt.pod.UID); err != nil {
				t.Errorf("removing it again: %v", err)
			}
		})
	}
}

func TestBurstableWeight(t *testing.T) {
	tree, err := cgroup.NewFake("/skiff-test")
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(tree, "/skiff-test", 0)
	if err != nil {
		t.Fatal(err)
	}
	weight := func() uint64 {
		t.Helper()
		r, err := tree.Resources("/skiff-test/kubepods/burstable")
		if err != nil {
			t.Fatal(err)
		}
		return *r.CPUShares
	}
	for _, uid := range []types.UID{"a", "b"} {
		if _, err := g.EnsurePod(testPod(uid, list("1", ""), nil)); err != nil {
			t.Fatal(err)
		}
	}
	if got := weight(); got != 2048 {
		t.Errorf("two pods weigh %d, want 2048", got)
	}
	if err := g.RemovePod("a"); err != nil {
		t.Fatal(err)
	}
	if got := weight(); got != 1024 {
		t.Errorf("one pod weighs %d, want 1024", got)
	}
}

// TestRestart: a new kubelet leaves the weights as they are, and then counts
// the pods that it has not started itself.
func TestRestart(t *testing.T) {
	const root = "/skiff-test"
	tree, err := cgroup.NewFake(root)
	if err != nil {
		t.Fatal(err)
	}
	old := testPod("old", list("1", ""), nil)
	weight := func(want uint64) {
		t.Helper()
		r, err := tree.Resources(root + "/kubepods/burstable")
		if err != nil || *r.CPUShares != want {
			t.Errorf("burstable pods weigh %d, want %d (%v)", *r.CPUShares, want, err)
		}
	}
	for range 2 {
		g, err := New(tree, root, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Resources(root + "/kubepods/burstable/podold"); err == nil {
			weight(1024)
			for _, p := range []*v1.Pod{old, testPod("new", list("2", ""), nil)} {
				if _, err := g.EnsurePod(p); err != nil {
					t.Fatal(err)
				}
			}
			weight(3072)
			if err := g.RemovePod(old.UID); err != nil {
				t.Fatal(err)
			}
			weight(2048)
			return
		}
		if _, err := g.EnsurePod(old); err != nil {
			t.Fatal(err)
		}
	}
	t.Error("the pod's group is gone")
}

func TestLimits(t *testing.T) {
	const root = "/skiff-test"
	tree, err := cgroup.NewFake(root)
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(tree, root, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Limit(list("2", "1Gi")); err != nil {
		t.Fatal(err)
	}
	got, err := tree.Resources(g.Root())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cgroup.Resources{CPUShares: of[uint64](2048), Memory: of[int64](1 << 30)}, got); diff != "" {
		t.Error(diff)
	}
	huge := list("1", "1Gi")
	huge["hugepages-2Mi"] = resource.MustParse("4Mi")
	at, err := g.EnsurePod(testPod("h", huge, huge))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tree.Resources(at); err != nil || got.Hugepages["2MB"] != 4<<20 {
		t.Errorf("huge pages: %v %v", got.Hugepages, err)
	}
}
