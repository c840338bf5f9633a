package plugins

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// NodeResourcesFit lets a pod onto nodes that have what it requests free, and
// prefers nodes by how much of them is allocated: the emptiest, the fullest,
// or along a curve, as the configuration says.
// https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/
func NodeResourcesFit(args *configv1.NodeResourcesFitArgs) (*framework.Any, error) {
	score, err := newAllocationScore(args.ScoringStrategy)
	if err != nil {
		return nil, err
	}
	f := &fit{ignored: args.IgnoredResources, ignoredGroups: args.IgnoredResourceGroups, score: score}
	return framework.Of(&framework.Plugin[fitState]{
		Name: "NodeResourcesFit",
		Sign: func(s *framework.Signer, pod *framework.Pod) {
			s.Resources(&pod.Requests)
			s.Resources(&pod.Assumed)
		},
		Prepare: f.prepare,
		Filter:  fitState.filter,
		Score:   fitState.rate,
		Wakes: []framework.Wake{
			framework.On[*corev1.Pod](framework.PodDeleted, nil),
			framework.On(framework.PodScaledDown, f.podFreed),
			framework.On(framework.NodeAdded|framework.NodeAllocatable, f.nodeGrew),
			framework.On[*corev1.Pod](framework.SelfScaledDown, nil),
		},
	}), nil
}

type fit struct {
	ignored       []string
	ignoredGroups []string
	score         allocationScore
}

// fitState is what one class of pods requests.
type fitState struct {
	requests *framework.Resources
	assumed  *framework.Resources
	// scalars are the scalar resources to look at, in order.
	scalars []corev1.ResourceName
	score   *allocationScore
}

func (f *fit) prepare(pod *framework.Pod, _ *framework.Snapshot) framework.Preparation[fitState] {
	return framework.Preparation[fitState]{State: f.state(pod)}
}

func (f *fit) state(pod *framework.Pod) fitState {
	s := fitState{requests: &pod.Requests, assumed: &pod.Assumed, score: &f.score}
	for name, amount := range pod.Requests.Scalar {
		if amount > 0 && !f.ignores(name) {
			s.scalars = append(s.scalars, name)
		}
	}
	slices.Sort(s.scalars)
	return s
}

// ignores reports whether the configuration takes an extended resource out of
// the comparison; it cannot do so for the resources of Kubernetes itself.
func (f *fit) ignores(name corev1.ResourceName) bool {
	group, _, extended := strings.Cut(string(name), "/")
	if !extended || group == "kubernetes.io" || strings.HasSuffix(group, ".kubernetes.io") {
		return false
	}
	return slices.Contains(f.ignored, string(name)) || slices.Contains(f.ignoredGroups, group)
}

func (s fitState) filter(n *framework.Node) *framework.Status {
	var short shortage
	if int64(len(n.Pods))+1 > n.Allocatable.Pods {
		short.reasons = append(short.reasons, "Too many pods")
	}
	short.compare(corev1.ResourceCPU, s.requests.MilliCPU, n.Allocatable.MilliCPU, n.Requested.MilliCPU)
	short.compare(corev1.ResourceMemory, s.requests.Memory, n.Allocatable.Memory, n.Requested.Memory)
	short.compare(corev1.ResourceEphemeralStorage, s.requests.EphemeralStorage, n.Allocatable.EphemeralStorage, n.Requested.EphemeralStorage)
	for _, name := range s.scalars {
		short.compare(name, s.requests.Scalar[name], n.Allocatable.Scalar[name], n.Requested.Scalar[name])
	}
	switch {
	case short.reasons == nil:
		return nil
	case short.final:
		return framework.RejectFinally(short.reasons...)
	default:
		return framework.Reject(short.reasons...)
	}
}

// shortage collects what a node has too little of.
type shortage struct {
	reasons []string
	final   bool // even empty, the node would be too small
}

func (s *shortage) compare(name corev1.ResourceName, want, allocatable, requested int64) {
	if want > 0 && want > allocatable-requested {
		s.reasons = append(s.reasons, "Insufficient "+string(name))
		s.final = s.final || want > allocatable
	}
}

func (s fitState) rate(n *framework.Node) int64 {
	return s.score.rate(s, n)
}

// podFreed reports whether a placed pod gave up some of what the waiting one
// requests.
func (f *fit) podFreed(waiting *framework.Pod, old, new *corev1.Pod) bool {
	before, after := framework.NewPod(old), framework.NewPod(new)
	return wantsMoreOf(waiting, &before.Requests, &after.Requests)
}

// nodeGrew reports whether the waiting pod would fit onto the node if it were
// empty, and the node has more than before of something the pod requests.
func (f *fit) nodeGrew(waiting *framework.Pod, old, new *corev1.Node) bool {
	empty := &framework.Node{Object: new, Allocatable: framework.ResourcesOf(new.Status.Allocatable)}
	if f.state(waiting).filter(empty) != nil {
		return false
	}
	if old == nil {
		return true
	}
	before := framework.ResourcesOf(old.Status.Allocatable)
	return wantsMoreOf(waiting, &empty.Allocatable, &before)
}

// wantsMoreOf reports whether the pod requests a resource of which there is
// more in larger than in smaller.
func wantsMoreOf(pod *framework.Pod, larger, smaller *framework.Resources) bool {
	more := func(name corev1.ResourceName) bool {
		return pod.Requests.Get(name) > 0 && larger.Get(name) > smaller.Get(name)
	}
	if more(corev1.ResourceCPU) || more(corev1.ResourceMemory) || more(corev1.ResourceEphemeralStorage) || more(corev1.ResourcePods) {
		return true
	}
	for name := range pod.Requests.Scalar {
		if more(name) {
			return true
		}
	}
	return false
}
