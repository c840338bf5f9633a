// Package workload holds the arithmetic of workloads: how many pods may come
// and go in a rollout, how replicas are shared out, which template is which.
// It is pure.
package workload

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
)

// HashLabel tells the pods of one template of a Deployment from another's.
const HashLabel = "pod-template-hash"

// TemplateHash returns a short name for a template. collisions is the count of
// hashes that were found taken by another template.
func TemplateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	if err := json.NewEncoder(h).Encode(t); err != nil {
		panic(fmt.Sprintf("workload: a pod template cannot be encoded: %v", err)) // API types always can
	}
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// SameTemplate reports whether two templates make the same pods; the hash
// label is not compared.
func SameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, HashLabel)
	delete(b.Labels, HashLabel)
	return equality.Semantic.DeepEqual(a, b)
}

// Bounds are what a rolling update must keep to.
type Bounds struct {
	// Surge is how many pods there may be beyond the desired replicas,
	// Unavailable how many of these may be missing. Not both are 0.
	Surge, Unavailable int32
}

// BoundsOf resolves counts or percentages of replicas: surge is rounded up,
// unavailable down; if both come to 0, one pod may be unavailable, since the
// update could not move otherwise.
func BoundsOf(surge, unavailable *intstr.IntOrString, replicas int32) Bounds {
	b := Bounds{Surge: scaled(surge, replicas, true), Unavailable: scaled(unavailable, replicas, false)}
	if b.Surge == 0 && b.Unavailable == 0 {
		b.Unavailable = 1
	}
	b.Unavailable = min(b.Unavailable, replicas)
	return b
}

func scaled(v *intstr.IntOrString, of int32, up bool) int32 {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(of), up)
	if err != nil {
		return 0 // validation admits nothing that cannot be read
	}
	return int32(n)
}

// Surge returns to how many replicas the newest set may grow: up to want, with
// total pods now and no more than want + surge in all.
func Surge(want, newest, total int32, b Bounds) int32 {
	room := want + b.Surge - total
	if room <= 0 || newest >= want {
		return min(newest, want)
	}
	return min(newest+room, want)
}

// Set is what arithmetic needs to know of a replica set.
type Set struct {
	Replicas, Available int32
	// SizedFor is the size of the whole, surge included, that Replicas was a
	// share of; 0 for unknown.
	SizedFor int32
	// Age orders sets: a smaller one is older.
	Age int64
}

// Shrink returns the replicas that old sets are to have in a rolling update.
// Pods that are not available are taken away first, oldest set first, as that
// costs nothing; then as many of the others as leaves want - unavailable pods
// available. newest is the new set. A set that has been shrunk a moment ago may
// still tell of more available pods than it is to keep: those are not counted.
func Shrink(want int32, newest Set, old []Set, b Bounds) []int32 {
	out := make([]int32, len(old))
	newest.Available = min(newest.Available, newest.Replicas)
	total, available := newest.Replicas, newest.Available
	for i, s := range old {
		out[i] = s.Replicas
		total += s.Replicas
		available += min(s.Available, s.Replicas)
	}
	floor := want - b.Unavailable
	// New pods that are not available yet must not be counted on.
	budget := total - floor - (newest.Replicas - newest.Available)
	if budget <= 0 {
		return out
	}
	order := oldestFirst(old)
	for _, i := range order {
		n := min(old[i].Replicas-old[i].Available, budget)
		if n > 0 {
			out[i] -= n
			budget -= n
		}
	}
	spare := available - floor
	for _, i := range order {
		n := min(out[i], spare)
		if n > 0 {
			out[i] -= n
			spare -= n
		}
	}
	return out
}

func oldestFirst(sets []Set) []int {
	order := make([]int, len(sets))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sets[a].Age, sets[b].Age) })
	return order
}

// Share spreads a change of the whole over several sets in proportion to
// their size, so that a Deployment that is scaled in mid-rollout keeps the
// risk where it was. It returns the new sizes; their sum is total. A set that
// has been sized for total already keeps its share: whoever was interrupted
// between two sets comes to the same sizes when it goes on.
func Share(sets []Set, total int32) []int32 {
	out := make([]int32, len(sets))
	var sum int32
	for i, s := range sets {
		out[i] = s.Replicas
		sum += s.Replicas
	}
	left := total - sum
	if left == 0 || sum == 0 {
		return out
	}
	order := largestFirst(sets, left > 0)
	for _, i := range order {
		before := sets[i].SizedFor
		if before <= 0 {
			before = sum
		}
		target := int32((int64(sets[i].Replicas)*int64(total) + int64(before)/2) / int64(before))
		part := max(clamp(target-sets[i].Replicas, left), -sets[i].Replicas)
		out[i] += part
		left -= part
	}
	settled := func(i int) int {
		if sets[i].SizedFor == total {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(settled(a), settled(b)) })
	for _, i := range order { // what rounding left over goes to the largest
		part := max(left, -out[i])
		out[i] += part
		left -= part
	}
	return out
}

// clamp keeps part between 0 and left, whichever sign left has.
func clamp(part, left int32) int32 {
	if left > 0 {
		return max(0, min(part, left))
	}
	return min(0, max(part, left))
}

// largestFirst orders by size; among equals the newest comes first when
// growing, the oldest when shrinking.
func largestFirst(sets []Set, growing bool) []int {
	order := oldestFirst(sets)
	if growing {
		slices.Reverse(order)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sets[b].Replicas, sets[a].Replicas) })
	return order
}
