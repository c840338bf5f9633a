package env

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/pod"
)

// Field returns the field of a pod that the downward API names by path, as
// text; labels and annotations as a whole are lines of key="value".
func Field(p *v1.Pod, path string) (string, error) {
	if field, key, ok := pod.Subscript(path); ok {
		switch field {
		case "metadata.annotations":
			return p.Annotations[key], nil
		case "metadata.labels":
			return p.Labels[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return lines(p.Labels), nil
	case "metadata.annotations":
		return lines(p.Annotations), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return p.Status.HostIP, nil
	case "status.hostIPs":
		ips := make([]string, len(p.Status.HostIPs))
		for i := range ips {
			ips[i] = p.Status.HostIPs[i].IP
		}
		return strings.Join(ips, ","), nil
	case "status.podIP":
		return p.Status.PodIP, nil
	case "status.podIPs":
		ips := make([]string, len(p.Status.PodIPs))
		for i := range ips {
			ips[i] = p.Status.PodIPs[i].IP
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func lines(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%v=%q", k, m[k]))
	}
	return strings.Join(out, "\n")
}

// PodResource is Resource for the container of the pod that ref names.
func PodResource(p *v1.Pod, ref *v1.ResourceFieldSelector, allocatable v1.ResourceList) (string, error) {
	c, _, ok := podsync.Find(p, ref.ContainerName)
	if !ok {
		return "", fmt.Errorf("container %s not found", ref.ContainerName)
	}
	return Resource(c, ref, allocatable)
}

// Resource returns a request or limit of a container in units of the divisor,
// rounded up. A limit that is not set is what the node has.
func Resource(c *v1.Container, ref *v1.ResourceFieldSelector, allocatable v1.ResourceList) (string, error) {
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	}
	q, set := list[v1.ResourceName(name)]
	if !set && kind == "limits" {
		q = allocatable[v1.ResourceName(name)]
	}
	return inUnits(v1.ResourceName(name), q, ref.Divisor), nil
}

func inUnits(name v1.ResourceName, q, divisor resource.Quantity) string {
	value, unit := q.Value(), divisor.Value()
	if name == v1.ResourceCPU {
		value, unit = q.MilliValue(), divisor.MilliValue()
		if divisor.IsZero() {
			unit = 1000
		}
	}
	unit = max(unit, 1)
	n := value / unit
	if value%unit > 0 {
		n++
	}
	return strconv.FormatInt(n, 10)
}
