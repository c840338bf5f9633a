package deployment

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/workload"
)

// Annotations by which Deployments and ReplicaSets keep their history.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// observed is what the controller sees of a Deployment's surroundings.
type observed struct {
	sets []*appsv1.ReplicaSet
	pods map[string][]*corev1.Pod // by uid of the set
	now  time.Time
}

// plan is one step of a rollout. All objects in it are copies.
type plan struct {
	create      *appsv1.ReplicaSet
	scale       []scaling
	remove      []*appsv1.ReplicaSet
	annotations map[string]string // of the Deployment
}

// scaling is a ReplicaSet as it is to be written, and its size before.
type scaling struct {
	set  *appsv1.ReplicaSet
	from int32
}

// after returns the sets as they will be once the plan is carried out.
func (p plan) after(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	out := make([]*appsv1.ReplicaSet, 0, len(sets)+1)
	for _, rs := range sets {
		if slices.ContainsFunc(p.remove, func(r *appsv1.ReplicaSet) bool { return r.UID == rs.UID }) {
			continue
		}
		for _, s := range p.scale {
			if s.set.UID == rs.UID {
				rs = s.set
			}
		}
		out = append(out, rs)
	}
	if p.create != nil {
		out = append(out, p.create)
	}
	return out
}

// compute returns the next step of the rollout of d. It is pure.
func compute(d *appsv1.Deployment, seen observed) plan {
	newest, old := split(d, seen.sets)
	p := plan{annotations: d.Annotations}
	switch {
	case d.Spec.Paused:
		p.resize(d, newest, old)
		p.forget(d, newest, old)
		return p
	case scaledInMidRollout(d, newest, old):
		p.resize(d, newest, old)
		return p
	}
	revision := nextRevision(newest, old)
	p.annotations = withAnnotation(d.Annotations, revisionAnnotation, strconv.FormatInt(revision, 10))
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		p.recreate(d, newest, old, seen, revision)
	} else {
		p.roll(d, newest, old, revision)
	}
	p.forget(d, newest, old)
	return p
}

// split finds the set of the present template, the oldest if several have it;
// the others are old. Both are in order of age.
func split(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return cmp.Compare(a.Name, b.Name)
	})
	for _, rs := range sets {
		if newest == nil && workload.SameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			newest = rs
			continue
		}
		old = append(old, rs)
	}
	return newest, old
}

func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is one more than that of every old set, or what the newest set
// has if that is more already.
func nextRevision(newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int64 {
	var highest int64
	for _, rs := range old {
		highest = max(highest, revisionOf(rs))
	}
	if newest != nil && revisionOf(newest) > highest {
		return revisionOf(newest)
	}
	return highest + 1
}

// scaledInMidRollout reports whether spec.replicas has changed since the sets
// were last sized.
func scaledInMidRollout(d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) bool {
	sets := old
	if newest != nil {
		sets = append(slices.Clone(old), newest)
	}
	for _, rs := range sets {
		desired, err := strconv.ParseInt(rs.Annotations[desiredAnnotation], 10, 32)
		if *rs.Spec.Replicas > 0 && err == nil && int32(desired) != *d.Spec.Replicas {
			return true
		}
	}
	return false
}

// resize brings the sets to the size that spec.replicas asks for without
// rolling anything out: the one active set gets it all; a finished rollout's
// old sets get nothing; several active ones share in proportion.
func (p *plan) resize(d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	want := *d.Spec.Replicas
	active := activeOf(newest, old)
	switch {
	case len(active) <= 1 && (len(active) == 1 || newest != nil):
		only := newest
		if len(active) == 1 {
			only = active[0]
		}
		p.setSize(d, only, want, 0)
		return
	case len(active) == 0:
		return
	case newest != nil && *newest.Spec.Replicas == want && newest.Status.AvailableReplicas == want:
		p.setSize(d, newest, want, 0)
		for _, rs := range old {
			p.setSize(d, rs, 0, 0)
		}
		return
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return // its sets are not active at once for long
	}
	total := want
	if want > 0 {
		total += boundsOf(d).Surge
	}
	sizes := workload.Share(setsOf(active), total)
	for i, rs := range active {
		p.setSize(d, rs, sizes[i], 0)
	}
}

func activeOf(newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (active []*appsv1.ReplicaSet) {
	all := old
	if newest != nil {
		all = append(slices.Clone(old), newest)
	}
	for _, rs := range all {
		if *rs.Spec.Replicas > 0 {
			active = append(active, rs)
		}
	}
	return active
}

// sizedFor is the size of all sets together, surge included, that a set got
// its share of.
func sizedFor(rs *appsv1.ReplicaSet) int32 {
	n, err := strconv.ParseInt(rs.Annotations[maxAnnotation], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func setsOf(sets []*appsv1.ReplicaSet) []workload.Set {
	out := make([]workload.Set, len(sets))
	for i, rs := range sets {
		out[i] = workload.Set{Replicas: *rs.Spec.Replicas, Available: rs.Status.AvailableReplicas, SizedFor: sizedFor(rs), Age: int64(i)}
	}
	return out
}

func boundsOf(d *appsv1.Deployment) workload.Bounds {
	u := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || u == nil {
		return workload.Bounds{}
	}
	return workload.BoundsOf(u.MaxSurge, u.MaxUnavailable, *d.Spec.Replicas)
}

// roll is one step of a rolling update: grow the new set, else shrink the old.
func (p *plan) roll(d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, revision int64) {
	b := boundsOf(d)
	var total, size int32
	for _, rs := range old {
		total += *rs.Spec.Replicas
	}
	var set workload.Set
	if newest != nil {
		size = *newest.Spec.Replicas
		set = workload.Set{Replicas: size, Available: newest.Status.AvailableReplicas}
	}
	grown := workload.Surge(*d.Spec.Replicas, size, total+size, b)
	if newest == nil {
		p.create = newSet(d, revision, grown)
		return
	}
	p.setSize(d, newest, grown, revision)
	if grown != size {
		return
	}
	for i, n := range workload.Shrink(*d.Spec.Replicas, set, setsOf(old), b) {
		p.setSize(d, old[i], n, 0)
	}
}

// recreate lets all old pods go before the first new one comes.
func (p *plan) recreate(d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, seen observed, revision int64) {
	waiting := false
	for _, rs := range old {
		p.setSize(d, rs, 0, 0)
		waiting = waiting || *rs.Spec.Replicas > 0
		for _, pod := range seen.pods[string(rs.UID)] {
			waiting = waiting || !ended(pod)
		}
	}
	switch {
	case waiting:
	case newest == nil:
		p.create = newSet(d, revision, *d.Spec.Replicas)
	default:
		p.setSize(d, newest, *d.Spec.Replicas, revision)
	}
}

// setSize plans to bring a set to n replicas and its annotations up to date; a
// revision above 0 is recorded as that of the set.
func (p *plan) setSize(d *appsv1.Deployment, rs *appsv1.ReplicaSet, n int32, revision int64) {
	annotations := maps.Clone(rs.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	if revision > 0 {
		copyAnnotations(annotations, d.Annotations)
		recordRevision(annotations, revision)
	}
	if n > 0 || *rs.Spec.Replicas > 0 || revision > 0 {
		recordSize(annotations, d)
	}
	minReady := rs.Spec.MinReadySeconds
	if revision > 0 {
		minReady = d.Spec.MinReadySeconds
	}
	if n == *rs.Spec.Replicas && minReady == rs.Spec.MinReadySeconds && maps.Equal(annotations, rs.Annotations) {
		return
	}
	changed := rs.DeepCopy()
	changed.Annotations, changed.Spec.Replicas, changed.Spec.MinReadySeconds = annotations, &n, minReady
	p.scale = append(p.scale, scaling{set: changed, from: *rs.Spec.Replicas})
}

func recordSize(annotations map[string]string, d *appsv1.Deployment) {
	want := *d.Spec.Replicas
	annotations[desiredAnnotation] = strconv.Itoa(int(want))
	annotations[maxAnnotation] = strconv.Itoa(int(want + boundsOf(d).Surge))
}

// recordRevision sets the revision; the ones that a set had before, when a
// rollback brought it back, are kept in its history.
func recordRevision(annotations map[string]string, revision int64) {
	was, text := annotations[revisionAnnotation], strconv.FormatInt(revision, 10)
	if was == text {
		return
	}
	annotations[revisionAnnotation] = text
	if was == "" {
		return
	}
	if h := annotations[historyAnnotation]; h != "" {
		was = h + "," + was
	}
	annotations[historyAnnotation] = was
}

// notCopied are the annotations that a ReplicaSet does not take over from its
// Deployment.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true, revisionAnnotation: true, historyAnnotation: true,
	desiredAnnotation: true, maxAnnotation: true, appsv1.DeprecatedRollbackTo: true,
}

func copyAnnotations(to, from map[string]string) {
	for k, v := range from {
		if !notCopied[k] {
			to[k] = v
		}
	}
}

func withAnnotation(m map[string]string, k, v string) map[string]string {
	if m[k] == v {
		return m
	}
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// newSet is the ReplicaSet of the present template.
func newSet(d *appsv1.Deployment, revision int64, replicas int32) *appsv1.ReplicaSet {
	hash := workload.TemplateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = withAnnotation(template.Labels, workload.HashLabel, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withAnnotation(selector.MatchLabels, workload.HashLabel, hash)
	annotations := map[string]string{}
	copyAnnotations(annotations, d.Annotations)
	recordRevision(annotations, revision)
	recordSize(annotations, d)
	return &appsv1.ReplicaSet{
		TypeMeta: metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace, Labels: template.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template,
		},
	}
}

// forget plans to delete old sets beyond the history limit, once the rollout is
// complete: the oldest revisions first, and none that still has pods.
func (p *plan) forget(d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	limit := d.Spec.RevisionHistoryLimit
	if limit == nil || newest == nil || (!complete(d) && !d.Spec.Paused) {
		return
	}
	var empty []*appsv1.ReplicaSet
	for _, rs := range old {
		if *rs.Spec.Replicas == 0 && rs.Status.Replicas == 0 && rs.Status.ObservedGeneration >= rs.Generation && rs.DeletionTimestamp == nil {
			empty = append(empty, rs)
		}
	}
	slices.SortStableFunc(empty, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	if excess := len(empty) - int(*limit); excess > 0 {
		p.remove = empty[:excess]
	}
}
