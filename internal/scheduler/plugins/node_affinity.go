package plugins

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// NodeAffinity lets a pod only onto nodes that its spec.nodeSelector and
// required node affinity select, and prefers those its preferred terms do.
// The configuration may add an affinity of its own to every pod's.
// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/
func NodeAffinity(args *configv1.NodeAffinityArgs) (*framework.Any, error) {
	added, err := newAddedAffinity(args.AddedAffinity)
	if err != nil {
		return nil, err
	}
	return framework.Of(&framework.Plugin[nodeAffinity]{
		Name: "NodeAffinity",
		Sign: func(s *framework.Signer, pod *framework.Pod) {
			s.Map(pod.Spec.NodeSelector)
			if a := nodeAffinityOf(pod.Pod); a != nil {
				s.Message(a)
			} else {
				s.Message(nil)
			}
		},
		Prepare:   added.prepare,
		Filter:    nodeAffinity.filter,
		Score:     nodeAffinity.score,
		Normalize: framework.MoreIsBetter,
		Wakes:     []framework.Wake{framework.On(framework.NodeAdded|framework.NodeLabels, added.nodeNowMatches)},
	}), nil
}

// addedAffinity is what the configuration demands of the nodes of all pods.
type addedAffinity struct {
	required  *nodeaffinity.NodeSelector
	preferred *nodeaffinity.PreferredSchedulingTerms
}

// nodeAffinity is what one class of pods asks of nodes.
type nodeAffinity struct {
	added     addedAffinity
	required  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
}

func newAddedAffinity(a *corev1.NodeAffinity) (addedAffinity, error) {
	var added addedAffinity
	if a == nil {
		return added, nil
	}
	var err error
	if required := a.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		if added.required, err = nodeaffinity.NewNodeSelector(required); err != nil {
			return added, fmt.Errorf("parsing addedAffinity.requiredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	if preferred := a.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) != 0 {
		if added.preferred, err = nodeaffinity.NewPreferredSchedulingTerms(preferred); err != nil {
			return added, fmt.Errorf("parsing addedAffinity.preferredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	return added, nil
}

func (added addedAffinity) prepare(pod *framework.Pod, _ *framework.Snapshot) framework.Preparation[nodeAffinity] {
	made := framework.Preparation[nodeAffinity]{State: nodeAffinity{
		added: added, required: nodeaffinity.GetRequiredNodeAffinity(pod.Pod),
	}}
	a := nodeAffinityOf(pod.Pod)
	if a != nil && len(a.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			made.Err = fmt.Errorf("parsing pod's affinity: %w", err)
			return made
		}
		made.State.preferred = terms
	}
	required := a != nil && a.RequiredDuringSchedulingIgnoredDuringExecution != nil
	made.Skip = !required && len(pod.Spec.NodeSelector) == 0 && made.State.preferred == nil &&
		added.required == nil && added.preferred == nil
	if required {
		names, limited := namedNodes(a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms)
		if limited && len(names) == 0 {
			made.Reject = framework.RejectFinally("pod affinity terms conflict")
		}
		made.Nodes = names
	}
	return made
}

func (s nodeAffinity) filter(n *framework.Node) *framework.Status {
	if s.added.required != nil && !s.added.required.Match(n.Object) {
		return framework.RejectFinally("node(s) didn't match scheduler-enforced node affinity")
	}
	// A term that cannot be parsed matches no node.
	if fits, _ := s.required.Match(n.Object); !fits {
		return framework.RejectFinally("node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

func (s nodeAffinity) score(n *framework.Node) int64 {
	var sum int64
	if s.added.preferred != nil {
		sum += s.added.preferred.Score(n.Object)
	}
	if s.preferred != nil {
		sum += s.preferred.Score(n.Object)
	}
	return sum
}

func (added addedAffinity) nodeNowMatches(waiting *framework.Pod, old, new *corev1.Node) bool {
	s := nodeAffinity{added: added, required: nodeaffinity.GetRequiredNodeAffinity(waiting.Pod)}
	matches := func(n *corev1.Node) bool {
		own, _ := s.required.Match(n)
		return own && (added.required == nil || added.required.Match(n))
	}
	return matches(new) && (old == nil || !matches(old))
}

func nodeAffinityOf(pod *corev1.Pod) *corev1.NodeAffinity {
	if pod.Spec.Affinity == nil {
		return nil
	}
	return pod.Spec.Affinity.NodeAffinity
}

// namedNodes returns the nodes that the terms name by metadata.name, as the
// pods of a DaemonSet do; limited is false if a term leaves the name open.
// Terms are alternatives; the requirements in one must all hold.
func namedNodes(terms []corev1.NodeSelectorTerm) (names []string, limited bool) {
	names = []string{}
	for i := range terms {
		var named []string
		found := false
		for _, r := range terms[i].MatchFields {
			if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if !found {
				named, found = slices.Clone(r.Values), true
				continue
			}
			named = slices.DeleteFunc(named, func(name string) bool { return !slices.Contains(r.Values, name) })
		}
		if !found {
			return nil, false
		}
		names = append(names, named...)
	}
	if len(terms) == 0 {
		return nil, false
	}
	slices.Sort(names)
	return slices.Compact(names), true
}
