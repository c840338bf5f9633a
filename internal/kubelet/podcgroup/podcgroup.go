// Package podcgroup keeps the cgroups of the node's pods: one group per pod,
// below one for each quality of service, below one root. It reads the pods'
// requests and limits and writes the groups through package cgroup.
package podcgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/pod"
)

const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	period       = 100_000
	minQuota     = 1_000
	// removeTimeout is for processes that were killed to go.
	removeTimeout = 10 * time.Second
)

// Groups is the tree of the pods' cgroups. It is safe for concurrent use.
type Groups struct {
	tree cgroup.Tree
	root string // <root>/kubepods
	pids int64  // limit of each pod, 0 for none

	mu   sync.Mutex
	pods map[types.UID]group
}

type group struct {
	path      string
	resources cgroup.Resources
	cpu       int64 // requested, in thousandths
}

// New makes the groups of the qualities of service below root and returns the
// tree. Groups that are there, with the pods of an earlier kubelet, keep their
// weight until EnsurePod is called for these. pidLimit bounds the processes of each pod; 0 for no bound.
func New(tree cgroup.Tree, root string, pidLimit int64) (*Groups, error) {
	g := &Groups{tree: tree, root: path.Join(root, "kubepods"), pids: pidLimit, pods: map[types.UID]group{}}
	least := uint64(minShares)
	for _, qos := range []string{"burstable", "besteffort"} {
		at := path.Join(g.root, qos)
		_, err := tree.Children(at)
		if errors.Is(err, fs.ErrNotExist) {
			err = tree.Create(at, cgroup.Resources{CPUShares: &least})
		}
		if err != nil {
			return nil, fmt.Errorf("making the cgroup of %s pods: %w", qos, err)
		}
	}
	return g, nil
}

// Limit bounds all pods together by what the node has for them, so that they
// cannot starve the node's own programs.
func (g *Groups) Limit(capacity v1.ResourceList) error {
	weight := shares(capacity.Cpu().MilliValue())
	r := cgroup.Resources{CPUShares: &weight}
	if bytes := capacity.Memory().Value(); bytes > 0 {
		r.Memory = &bytes
	}
	if err := g.tree.Update(g.root, r); err != nil {
		return fmt.Errorf("limiting all pods: %w", err)
	}
	return nil
}

// Root is the group above all pods'.
func (g *Groups) Root() string { return g.root }

// parents are the groups that pods live in.
func (g *Groups) parents() []string {
	return []string{g.root, path.Join(g.root, "burstable"), path.Join(g.root, "besteffort")}
}

// Path returns where a pod's group is.
func (g *Groups) Path(p *v1.Pod) string {
	parent := g.root
	if qos := pod.QOS(p); qos != v1.PodQOSGuaranteed {
		parent = path.Join(g.root, strings.ToLower(string(qos)))
	}
	return path.Join(parent, "pod"+string(p.UID))
}

// EnsurePod makes the pod's group with its limits, or brings them up to date,
// and returns its path.
func (g *Groups) EnsurePod(p *v1.Pod) (string, error) {
	requests := pod.Requests(p)
	want := group{path: g.Path(p), resources: g.limits(p), cpu: requests.Cpu().MilliValue()}
	g.mu.Lock()
	defer g.mu.Unlock()
	have, ok := g.pods[p.UID]
	if ok && reflect.DeepEqual(have, want) {
		return want.path, nil
	}
	change := g.tree.Create
	if ok && have.path == want.path {
		change = g.tree.Update
	}
	if err := change(want.path, want.resources); err != nil {
		return "", fmt.Errorf("setting up the pod's cgroup: %w", err)
	}
	g.pods[p.UID] = want
	return want.path, g.weighBurstable()
}

// weighBurstable gives the burstable pods together the CPU they requested.
func (g *Groups) weighBurstable() error {
	sum := int64(0)
	burstable := path.Join(g.root, "burstable")
	for _, have := range g.pods {
		if path.Dir(have.path) == burstable {
			sum += have.cpu
		}
	}
	n := shares(sum)
	if err := g.tree.Update(burstable, cgroup.Resources{CPUShares: &n}); err != nil {
		return fmt.Errorf("weighing burstable pods: %w", err)
	}
	return nil
}

// RemovePod removes the pod's group and whatever is still in it.
func (g *Groups) RemovePod(uid types.UID) error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, parent := range g.parents() {
		p := path.Join(parent, "pod"+string(uid))
		err := g.tree.Kill(ctx, p)
		if err == nil {
			err = g.tree.Remove(p)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if _, ok := g.pods[uid]; !ok {
		return nil
	}
	delete(g.pods, uid)
	return g.weighBurstable()
}

// limits are the pod's: its shares are the sum of the requests; quota and
// memory are limited only where all containers are.
func (g *Groups) limits(p *v1.Pod) cgroup.Resources {
	requests, limits := pod.Requests(p), pod.Limits(p)
	weight := shares(requests.Cpu().MilliValue())
	if pod.QOS(p) == v1.PodQOSBestEffort {
		weight = minShares
	}
	out := cgroup.Resources{CPUShares: &weight}
	if allLimited(p, v1.ResourceCPU) {
		quota, per := max(limits.Cpu().MilliValue()*period/1000, minQuota), uint64(period)
		out.CPUQuota, out.CPUPeriod = &quota, &per
	}
	if allLimited(p, v1.ResourceMemory) {
		bytes := limits.Memory().Value()
		out.Memory = &bytes
	}
	if g.pids > 0 {
		out.Pids = &g.pids
	}
	for name, q := range limits {
		if size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
			if out.Hugepages == nil {
				out.Hugepages = map[string]int64{}
			}
			out.Hugepages[kernelSize(size)] = q.Value()
		}
	}
	return out
}

// kernelSize writes a size of huge pages, such as "2Mi", as the kernel does:
// "2MB".
func kernelSize(size string) string { return strings.TrimSuffix(size, "i") + "B" }

func shares(milli int64) uint64 {
	return uint64(min(max(milli*sharesPerCPU/1000, minShares), maxShares))
}

func allLimited(p *v1.Pod, name v1.ResourceName) bool {
	set := func(list v1.ResourceList) bool {
		q, ok := list[name]
		return ok && q.Cmp(resource.Quantity{}) > 0
	}
	if p.Spec.Resources != nil && set(p.Spec.Resources.Limits) {
		return true
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if !set(list[i].Resources.Limits) {
				return false
			}
		}
	}
	return true
}
