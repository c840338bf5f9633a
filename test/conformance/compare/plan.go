package compare

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"
)

// part is something that is measured on both targets.
type part struct {
	name string
	// node says whether there is one, besides the control plane.
	node bool
	// starts is how many fresh clusters are made, one after the other; 0 stands for one.
	starts int
	// flags are further ones of the targets' parts.
	flags map[string][]string
	// usual is about how many seconds the part takes on each of Targets, for the estimate.
	usual [2]int
	load  func(context.Context, *running) error
}

// startPart is the part that measures start-up, which is all that happens in it.
const startPart = "start"

// plan is all parts, in the order in which they are measured.
func plan() []part {
	return []part{
		{name: startPart, node: true, starts: 3, usual: [2]int{20, 45}},
		{name: "api", usual: [2]int{25, 60}, load: operations},
		{name: "lists", usual: [2]int{30, 70}, load: lists},
		{name: "watch", usual: [2]int{20, 45}, load: watches},
		{name: "schedule-1000", flags: scheduling(fastController, fastScheduler), usual: [2]int{25, 70}, load: schedule(1000, 10000)},
		{name: "schedule-5000", flags: scheduling(fastController, fastScheduler), usual: [2]int{30, 90}, load: schedule(5000, 10000)},
		{name: "schedule-default", flags: scheduling(fastController), usual: [2]int{15, 65}, load: schedule(1000, 2000)},
		{name: "pods", node: true, usual: [2]int{60, 90}, load: pods},
		{name: "idle", node: true, usual: [2]int{205, 225}, load: idle},
	}
}

// setting is a flag of a part.
type setting struct {
	part  string
	flags []string
}

// Stock components limit themselves; these limits are too high to be felt.
var (
	unlimited      = []string{"--kube-api-qps=5000", "--kube-api-burst=5000"}
	fastController = setting{"kube-controller-manager", unlimited}
	fastScheduler  = setting{"kube-scheduler", unlimited}
)

// scheduling are the flags for pretended nodes: no controller finds them silent, and there are ranges of pod
// addresses for all of them.
func scheduling(besides ...setting) map[string][]string {
	nodes := []string{"--node-monitor-grace-period=1h", "--cluster-cidr=10.0.0.0/11"}
	flags := map[string][]string{"skiff-server": nodes, "kube-controller-manager": nodes}
	for _, s := range besides {
		flags[s.part] = append(append([]string{}, flags[s.part]...), s.flags...)
	}
	return flags
}

// shapes are how much is done.
type shapes struct {
	objects, listed, lists, watchers, events int
	// share is that of the nodes and pods that are scheduled, in percent.
	share         int
	single, burst int
	settle        time.Duration
	period        time.Duration
}

// bench/compare's page names the full shapes.
var (
	full = shapes{objects: 4000, listed: 10000, lists: 30, watchers: 1000, events: 200, share: 100, single: 20, burst: 50,
		settle: 2 * time.Minute, period: time.Minute}
	quick = shapes{objects: 200, listed: 500, lists: 4, watchers: 50, events: 10, share: 5, single: 3, burst: 5,
		settle: 5 * time.Second, period: 5 * time.Second}
)

// api runs bench/api.
func (r *running) api(ctx context.Context, args ...string) error {
	pids, err := r.pids(r.Server())
	if err != nil {
		return err
	}
	return r.measure(ctx, "api", append([]string{"--kubeconfig", r.Cluster().Kubeconfig(), "--pids", pids}, args...)...)
}

func operations(ctx context.Context, r *running) error {
	return r.api(ctx, "--steps", "create,get,update,delete", "--objects", strconv.Itoa(r.c.shapes.objects))
}

func lists(ctx context.Context, r *running) error {
	s := r.c.shapes
	return r.api(ctx, "--steps", "list,list0", "--objects", strconv.Itoa(s.listed), "--lists", strconv.Itoa(s.lists))
}

func watches(ctx context.Context, r *running) error {
	s := r.c.shapes
	return r.api(ctx, "--steps", "watch", "--objects", "1", "--watchers", strconv.Itoa(s.watchers), "--events", strconv.Itoa(s.events))
}

func schedule(nodes, count int) func(context.Context, *running) error {
	return func(ctx context.Context, r *running) error {
		pids, err := r.pids(r.ControlPlane())
		if err != nil {
			return err
		}
		share := func(n int) string { return strconv.Itoa(n * r.c.shapes.share / 100) }
		return r.measure(ctx, "schedule", "--kubeconfig", r.Cluster().Kubeconfig(), "--pids", pids, "--nodes", share(nodes), "--pods", share(count),
			"--quiet", "3s", "--alone=false", "--clean=false", "--patience", patience.String())
	}
}

func pods(ctx context.Context, r *running) error {
	group, err := r.Cluster().Nodes[0].CPUGroup()
	if err != nil {
		return err
	}
	s := r.c.shapes
	return r.measure(ctx, "pods", "--kubeconfig", r.Cluster().Kubeconfig(), "--image", r.c.PodImage, "--cgroup", group,
		"--single", strconv.Itoa(s.single), "--burst", strconv.Itoa(s.burst), "--patience", patience.String())
}

// idlePods is how many there are while nothing happens.
const idlePods = "20"

func idle(ctx context.Context, r *running) error {
	_, err := r.c.tool(ctx, "pods", "--kubeconfig", r.Cluster().Kubeconfig(), "--image", r.c.PodImage, "--keep", idlePods, "--patience", patience.String())
	if err != nil {
		return err
	}
	var failed [2]error
	var wg sync.WaitGroup
	for i, group := range []struct {
		key      string
		programs []string
	}{{"idle.control", r.ControlPlane()}, {"idle.all", nil}} {
		pids, err := r.pids(group.programs)
		if err != nil {
			failed[i] = err
			continue
		}
		wg.Go(func() {
			s := r.c.shapes
			failed[i] = r.measure(ctx, "idle", "--key", group.key, "--pids", pids, "--settle", s.settle.String(), "--period", s.period.String())
		})
	}
	wg.Wait()
	return errors.Join(failed[:]...)
}
