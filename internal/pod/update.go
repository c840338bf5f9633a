package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// updatable names the fields that an update of a pod may change.
var updatable = strings.Join([]string{
	"`spec.containers[*].image`", "`spec.initContainers[*].image`", "`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}, ",")

// ValidateUpdate reports the faults of a pod that is written over old.
func ValidateUpdate(r *check.Report, p, old *corev1.Pod) {
	validateMetaAndSpec(r, p)
	spec := r.At("spec")
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		spec.At("containers").Forbidden("pod updates may not add or remove containers")
		return
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		spec.At("initContainers").Forbidden("pod updates may not add or remove containers")
		return
	}
	validateDeadline(spec.At("activeDeadlineSeconds"), p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)
	for _, g := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, g) {
			spec.At("schedulingGates").Forbidden(fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))
		}
	}
	validateNewTolerations(spec.At("tolerations"), p.Spec.Tolerations, old.Spec.Tolerations)
	same := withUpdatable(&p.Spec, &old.Spec)
	if len(old.Spec.SchedulingGates) > 0 {
		validateGated(spec, &p.Spec, &old.Spec)
		same.NodeSelector = old.Spec.NodeSelector
		keepNodeAffinity(same, &old.Spec)
	}
	if !equality.Semantic.DeepEqual(same, &old.Spec) {
		spec.Forbidden(fmt.Sprintf("pod updates may not change fields other than %s\n%v", updatable, diff.Diff(old.Spec, *same)))
	}
}

// withUpdatable returns s with every field that may be updated as it is in old.
func withUpdatable(s, old *corev1.PodSpec) *corev1.PodSpec {
	same := s.DeepCopy()
	for i := range same.Containers {
		same.Containers[i].Image = old.Containers[i].Image
	}
	for i := range same.InitContainers {
		same.InitContainers[i].Image = old.InitContainers[i].Image
	}
	same.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	same.SchedulingGates = old.SchedulingGates
	same.Tolerations = old.Tolerations
	if g := old.TerminationGracePeriodSeconds; g != nil && *g < 0 &&
		s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds == 1 {
		same.TerminationGracePeriodSeconds = g
	}
	return same
}

func validateDeadline(r *check.Report, now, old *int64) {
	switch {
	case now != nil && (*now < 0 || *now > 1<<31-1):
		r.Invalid(*now, validation.InclusiveRangeError(0, 1<<31-1))
	case now != nil && old != nil && *now > *old:
		r.Invalid(*now, "must be less than or equal to previous value")
	case now == nil && old != nil:
		r.Invalid(now, "must not update from a positive integer to nil value")
	}
}

// validateNewTolerations: a pod may get more tolerations, and the time of one
// may change, but none is lost.
func validateNewTolerations(r *check.Report, now, old []corev1.Toleration) {
	for _, o := range old {
		found := false
		for _, n := range now {
			n.TolerationSeconds, o.TolerationSeconds = nil, nil
			found = found || n == o
		}
		if !found {
			r.Forbidden("existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
}

// validateGated: while a pod waits behind scheduling gates, the choice of its
// nodes may still be narrowed (KEP-3838).
func validateGated(r *check.Report, s, old *corev1.PodSpec) {
	for k, v := range old.NodeSelector {
		if now, ok := s.NodeSelector[k]; !ok || now != v {
			r.At("nodeSelector").Invalid(s.NodeSelector, "only additions are allowed to spec.nodeSelector")
			break
		}
	}
	at := r.At("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	was, now := requiredTerms(old), requiredTerms(s)
	if len(was) == 0 {
		return
	}
	if len(now) != len(was) {
		at.Invalid(now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	for i := range was {
		for _, list := range []struct {
			was, now []corev1.NodeSelectorRequirement
		}{
			{was[i].MatchExpressions, now[i].MatchExpressions}, {was[i].MatchFields, now[i].MatchFields},
		} {
			if len(list.now) < len(list.was) || !equality.Semantic.DeepEqual(list.now[:len(list.was)], list.was) {
				at.Index(i).Invalid(now[i], "only additions are allowed (no mutations or deletions)")
				break
			}
		}
	}
}

func requiredTerms(s *corev1.PodSpec) []corev1.NodeSelectorTerm {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// keepNodeAffinity puts old's node affinity into same; the preferred part may
// change freely while the pod is gated, the required part has been looked at.
func keepNodeAffinity(same, old *corev1.PodSpec) {
	var was *corev1.NodeAffinity
	if old.Affinity != nil {
		was = old.Affinity.NodeAffinity
	}
	switch {
	case same.Affinity == nil && was == nil:
	case same.Affinity == nil:
		same.Affinity = &corev1.Affinity{NodeAffinity: was}
	default:
		same.Affinity.NodeAffinity = was
		if old.Affinity == nil && *same.Affinity == (corev1.Affinity{}) {
			same.Affinity = nil
		}
	}
}

// ValidateStatusUpdate reports the faults of a new status over old's.
func ValidateStatusUpdate(r *check.Report, p, old *corev1.Pod) {
	r, s, was := r.At("status"), &p.Status, &old.Status
	if p.Spec.NodeName != old.Spec.NodeName {
		r.At("nodeName").Forbidden("may not be changed directly")
	}
	if s.NominatedNodeName != "" {
		r.At("nominatedNodeName").Rule(s.NominatedNodeName, check.DNSSubdomain)
	}
	r.At("observedGeneration").NonNegative(s.ObservedGeneration)
	for i, c := range s.Conditions {
		at := r.At("conditions").Index(i)
		at.At("observedGeneration").NonNegative(c.ObservedGeneration)
		at.At("type").Each(string(c.Type), validation.IsQualifiedName(string(c.Type)))
		for _, other := range s.Conditions[:i] {
			if other.Type == c.Type {
				at.At("type").Duplicate(c.Type)
				break
			}
		}
	}
	validateIPs(r, s)
	validateTransitions(r.At("containerStatuses"), s.ContainerStatuses, was.ContainerStatuses, old.Spec.RestartPolicy, old.Spec.Containers)
	validateInitTransitions(r.At("initContainerStatuses"), s.InitContainerStatuses, was.InitContainerStatuses, &old.Spec)
	for i, c := range s.ResourceClaimStatuses {
		if !slices.ContainsFunc(p.Spec.ResourceClaims, func(pc corev1.PodResourceClaim) bool { return pc.Name == c.Name }) {
			r.At("resourceClaimStatuses").Index(i).At("name").NotFound(c.Name)
		}
	}
}

const revived = "may not be transitioned to non-terminated state"

// validateTransitions: a container that has ended for good does not run again.
func validateTransitions(r *check.Report, now, old []corev1.ContainerStatus, policy corev1.RestartPolicy, containers []corev1.Container) {
	for i := range now {
		was := statusOf(old, now[i].Name)
		if was == nil || was.State.Terminated == nil || now[i].State.Terminated != nil {
			continue
		}
		at, p, rules := r.Index(i).At("state"), policy, false
		for j := range containers {
			if containers[j].Name != now[i].Name {
				continue
			}
			rules = len(containers[j].RestartPolicyRules) > 0
			if containers[j].RestartPolicy != nil {
				p = corev1.RestartPolicy(*containers[j].RestartPolicy)
			}
		}
		ended := p == corev1.RestartPolicyNever || p == corev1.RestartPolicyOnFailure && was.State.Terminated.ExitCode == 0
		if ended && !rules {
			at.Forbidden(revived)
		}
	}
}

func validateInitTransitions(r *check.Report, now, old []corev1.ContainerStatus, spec *corev1.PodSpec) {
	if spec.RestartPolicy == corev1.RestartPolicyAlways {
		return
	}
	for i := range now {
		was := statusOf(old, now[i].Name)
		if was == nil || was.State.Terminated == nil || now[i].State.Terminated != nil {
			continue
		}
		sidecar, own := false, false
		for j := range spec.InitContainers {
			if c := &spec.InitContainers[j]; c.Name == now[i].Name {
				sidecar, own = IsSidecar(c), c.RestartPolicy != nil
			}
		}
		if !sidecar && !own && was.State.Terminated.ExitCode != 0 && spec.RestartPolicy == corev1.RestartPolicyNever {
			r.Index(i).At("state").Forbidden(revived)
		}
	}
}

func statusOf(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// ValidateEphemeralUpdate reports the faults of a pod written through
// pods/ephemeralcontainers: containers are added, none changed or removed.
func ValidateEphemeralUpdate(r *check.Report, p, old *corev1.Pod) {
	validateMetaAndSpec(r, p)
	if IsMirror(p) {
		r.At("").Forbidden("static pods do not support ephemeral containers")
		return
	}
	at := r.At("spec", "ephemeralContainers")
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		j := slices.IndexFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
		if j < 0 {
			at.Forbidden(fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name))
		} else if now := &p.Spec.EphemeralContainers[j]; !equality.Semantic.DeepEqual(now, was) {
			at.Forbidden(fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(*was, *now)))
		}
	}
}

// ValidateResize reports the faults of a pod written through pods/resize:
// requests and limits of cpu and memory change, and nothing else (KEP-1287).
func ValidateResize(r *check.Report, p, old *corev1.Pod) {
	validateMetaAndSpec(r, p)
	spec := r.At("spec")
	switch {
	case IsMirror(old):
		r.At("").Forbidden("static pods cannot be resized")
		return
	case old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows:
		r.At("").Forbidden("windows pods cannot be resized")
		return
	case len(p.Spec.Containers) != len(old.Spec.Containers):
		spec.At("containers").Forbidden("containers may not be added or removed on resize")
		return
	case len(p.Spec.InitContainers) != len(old.Spec.InitContainers):
		spec.At("initContainers").Forbidden("containers may not be added or removed on resize")
		return
	}
	if qos := QOSClass(p); qos != QOS(old) {
		spec.Invalid(qos, "Pod QOS Class may not change as a result of resizing")
	}
	same := p.Spec.DeepCopy()
	for i := range same.Containers {
		validateShrink(spec.At("containers").Index(i).At("resources"), &same.Containers[i].Resources, &old.Spec.Containers[i].Resources)
		keepCompute(&same.Containers[i].Resources, &old.Spec.Containers[i].Resources)
	}
	for i := range same.InitContainers {
		if !IsSidecar(&same.InitContainers[i]) {
			continue
		}
		validateShrink(spec.At("initContainers").Index(i).At("resources"), &same.InitContainers[i].Resources, &old.Spec.InitContainers[i].Resources)
		keepCompute(&same.InitContainers[i].Resources, &old.Spec.InitContainers[i].Resources)
	}
	if same.Resources != nil && old.Spec.Resources != nil {
		validateShrink(spec.At("resources"), same.Resources, old.Spec.Resources)
		keepCompute(same.Resources, old.Spec.Resources)
	}
	if !equality.Semantic.DeepEqual(same, &old.Spec) {
		spec.Forbidden(fmt.Sprintf("only cpu and memory resources are mutable\n%v", diff.Diff(old.Spec, *same)))
	}
}

var computeResources = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// validateShrink: a request or limit may change but not be taken away.
func validateShrink(r *check.Report, now, old *corev1.ResourceRequirements) {
	for _, name := range computeResources {
		if has(old.Limits, name) && !has(now.Limits, name) {
			r.At("limits").Forbidden("resource limits cannot be removed")
		}
		if has(old.Requests, name) && !has(now.Requests, name) {
			r.At("requests").Forbidden("resource requests cannot be removed")
		}
	}
}

func has(list corev1.ResourceList, name corev1.ResourceName) bool {
	_, ok := list[name]
	return ok
}

// keepCompute puts old's cpu and memory into r, as that is what may change.
func keepCompute(r, old *corev1.ResourceRequirements) {
	r.Limits = withCompute(r.Limits, old.Limits)
	r.Requests = withCompute(r.Requests, old.Requests)
}

func withCompute(list, old corev1.ResourceList) corev1.ResourceList {
	kept := corev1.ResourceList{}
	for name, q := range list {
		if !slices.Contains(computeResources, name) {
			kept[name] = q
		}
	}
	for _, name := range computeResources {
		if q, ok := old[name]; ok {
			kept[name] = q
		}
	}
	if len(kept) == 0 && len(old) == 0 {
		return old
	}
	return kept
}
