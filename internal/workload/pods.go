package workload

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
)

// Orphans finds the objects of a namespace that no controller owns, by
// namespace.
var Orphans = meta.Index{Name: "orphans", Keys: func(o meta.Object) []string {
	if meta.ControllerOf(o) != nil {
		return nil
	}
	return []string{o.GetNamespace()}
}}

// PodOf returns the pod that a template of owner makes; its name is still to
// be generated.
func PodOf(t *corev1.PodTemplateSpec, owner meta.Object, kind schema.GroupVersionKind) *corev1.Pod {
	t = t.DeepCopy()
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: owner.GetName() + "-", Namespace: owner.GetNamespace(),
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: t.Spec,
	}
}

// DeletionOrder sorts pods by who is to go first when there are too many.
// crowd tells how many related active pods run on the node of that name.
// https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset
func DeletionOrder(pods []*corev1.Pod, crowd map[string]int, now time.Time) []*corev1.Pod {
	pods = slices.Clone(pods)
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			falseFirst(pod.IsReady(a), pod.IsReady(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]),
			youngerFirst(readySince(a), readySince(b), a, b, now),
			cmp.Compare(restarts(b.Status.ContainerStatuses), restarts(a.Status.ContainerStatuses)),
			cmp.Compare(restarts(b.Status.InitContainerStatuses), restarts(a.Status.InitContainerStatuses)),
			youngerFirst(a.CreationTimestamp, b.CreationTimestamp, a, b, now),
		)
	})
	return pods
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown: //nolint:staticcheck // still a value of the API
		return 1
	}
	return 0
}

func deletionCost(p *corev1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func readySince(p *corev1.Pod) metav1.Time {
	if c := pod.Condition(&p.Status, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

func restarts(list []corev1.ContainerStatus) (most int32) {
	for i := range list {
		most = max(most, list[i].RestartCount)
	}
	return most
}

// youngerFirst compares ages by their order of magnitude (KEP-2185), so that
// among pods of about one age the choice is by uid: at random, but always the
// same. Unknown ages come first.
func youngerFirst(a, b metav1.Time, pa, pb *corev1.Pod, now time.Time) int {
	switch {
	case a.Equal(&b):
		return 0
	case a.IsZero():
		return -1
	case b.IsZero():
		return 1
	}
	return cmp.Or(cmp.Compare(magnitude(now.Sub(a.Time)), magnitude(now.Sub(b.Time))), cmp.Compare(pa.UID, pb.UID))
}

func magnitude(d time.Duration) int {
	if d <= 0 {
		return -1
	}
	return int(math.Log2(float64(d)))
}
