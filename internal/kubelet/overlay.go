package kubelet

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/podsync"
)

// owned are the conditions that the kubelet writes.
var owned = []v1.PodConditionType{
	v1.PodReadyToStartContainers, v1.PodInitialized, v1.ContainersReady, v1.PodReady, v1.AllContainersRestarting,
}

// overlay returns the pod's status as it is to be taken: the fields that
// others own from the API, those of the kubelet from what it worked out last,
// which may not have reached the API. A terminal phase stays, whoever set it.
func overlay(api, own *v1.PodStatus) v1.PodStatus {
	out := *own.DeepCopy()
	out.Conditions = nil
	for _, c := range api.Conditions {
		if !slices.Contains(owned, c.Type) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	for _, c := range own.Conditions {
		if slices.Contains(owned, c.Type) || !hasType(out.Conditions, c.Type) && c.Type == v1.DisruptionTarget {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.NominatedNodeName, out.ResourceClaimStatuses = api.NominatedNodeName, api.ResourceClaimStatuses
	out.ExtendedResourceClaimStatus = api.ExtendedResourceClaimStatus
	if podsync.Terminal(api.Phase) && !podsync.Terminal(own.Phase) {
		out.Phase, out.Reason, out.Message = api.Phase, api.Reason, api.Message
	}
	return out
}

func hasType(list []v1.PodCondition, t v1.PodConditionType) bool {
	return slices.ContainsFunc(list, func(c v1.PodCondition) bool { return c.Type == t })
}
