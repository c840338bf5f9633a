package cri

import (
	"maps"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"skiff.dev/skiff/internal/kubelet/podsync"
)

// What the kubelet writes on sandboxes and containers, so that it can be read
// back from the runtime alone. The names are upstream's where upstream has one,
// as tools that look into the runtime know them.
const (
	hashMark          = "io.kubernetes.container.hash"
	attemptMark       = "io.kubernetes.container.restartCount"
	MessagePathMark   = "io.kubernetes.container.terminationMessagePath"
	MessagePolicyMark = "io.kubernetes.container.terminationMessagePolicy"
	GraceMark         = "io.kubernetes.pod.terminationGracePeriod"
	backoffMark       = "skiff.dev/restart-backoff"
)

// PodLabels are the labels by which sandboxes and containers of a pod are found.
func PodLabels(pod *v1.Pod) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:      pod.Name,
		kubelettypes.KubernetesPodNamespaceLabel: pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel:       string(pod.UID),
	}
}

// ContainerLabels are the labels of a container.
func ContainerLabels(pod *v1.Pod, container string) map[string]string {
	labels := PodLabels(pod)
	labels[kubelettypes.KubernetesContainerNameLabel] = container
	return labels
}

// SandboxLabels are those of the pod, and how it is found.
func SandboxLabels(pod *v1.Pod) map[string]string {
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, PodLabels(pod))
	return labels
}

// ContainerMarks are the annotations of one instance of a container.
func ContainerMarks(pod *v1.Pod, c *v1.Container, start podsync.StartContainer) map[string]string {
	marks := map[string]string{
		hashMark:          podsync.Hash(c),
		attemptMark:       strconv.Itoa(start.Attempt),
		backoffMark:       start.Backoff.String(),
		MessagePathMark:   c.TerminationMessagePath,
		MessagePolicyMark: string(c.TerminationMessagePolicy),
	}
	if grace := pod.Spec.TerminationGracePeriodSeconds; grace != nil {
		marks[GraceMark] = strconv.FormatInt(*grace, 10)
	}
	return marks
}

// Sandbox reads back what podsync needs of a sandbox.
func Sandbox(s *runtimeapi.PodSandboxStatus) podsync.Sandbox {
	out := podsync.Sandbox{
		ID: s.Id, Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
		Attempt: s.GetMetadata().GetAttempt(), CreatedAt: nanoTime(s.CreatedAt),
	}
	if ip := s.GetNetwork().GetIp(); ip != "" {
		out.IPs = append(out.IPs, ip)
		for _, more := range s.GetNetwork().GetAdditionalIps() {
			out.IPs = append(out.IPs, more.Ip)
		}
	}
	return out
}

// Container reads back what podsync needs of a container.
func Container(sandboxID string, s *runtimeapi.ContainerStatus) podsync.Container {
	out := podsync.Container{
		ID: s.Id, Name: s.GetMetadata().GetName(), SandboxID: sandboxID,
		Attempt:   int(s.GetMetadata().GetAttempt()),
		CreatedAt: nanoTime(s.CreatedAt), StartedAt: nanoTime(s.StartedAt), FinishedAt: nanoTime(s.FinishedAt),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Hash: s.Annotations[hashMark], Image: s.GetImage().GetImage(), ImageRef: s.ImageRef, ImageID: s.ImageId,
		Status: s,
	}
	if d, err := time.ParseDuration(s.Annotations[backoffMark]); err == nil {
		out.Backoff = d // made by someone else: no back-off known
	}
	switch s.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		out.State = podsync.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		out.State = podsync.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		out.State = podsync.Exited
	default:
		out.State = podsync.Unknown
	}
	return out
}

// nanoTime converts a time of the runtime, where 0 means not yet.
func nanoTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
