package nodestatus

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/version"
)

// Reserve is what of the node is not for pods.
type Reserve struct {
	System, Kube v1.ResourceList
	// Memory is left free before pods are evicted; Storage is the same for
	// ephemeral storage.
	Memory, Storage Threshold
}

// A Threshold is how much is left free: an amount and a part of all there is.
type Threshold struct {
	Amount  resource.Quantity
	Percent float64
}

func (t Threshold) of(total int64) resource.Quantity {
	q := t.Amount.DeepCopy()
	q.Add(*resource.NewQuantity(int64(float64(total)*t.Percent/100), resource.BinarySI))
	return q
}

// DefaultReserve is upstream's: only what eviction keeps free.
func DefaultReserve() Reserve {
	return Reserve{Memory: Threshold{Amount: resource.MustParse("100Mi")}, Storage: Threshold{Percent: 10}}
}

// Pressure is what the node is short of.
type Pressure struct{ Memory, Disk, PIDs bool }

// seen is what was found out about the runtime.
type seen struct {
	err     error // the runtime did not answer
	version *runtimeapi.VersionResponse
	status  *runtimeapi.StatusResponse
}

// capacity returns all that the machine has.
func capacity(m *Machine, maxPods int64) v1.ResourceList {
	out := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewMilliQuantity(m.CPUs*1000, resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(m.Memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(m.Storage, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	for size, bytes := range m.HugePages {
		out[v1.ResourceName(v1.ResourceHugePagesPrefix+size)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return out
}

// allocatable returns what pods may request: the capacity without what is
// reserved. Huge pages are taken from the memory.
// https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/
func allocatable(m *Machine, maxPods int64, r Reserve) v1.ResourceList {
	out := capacity(m, maxPods)
	take := func(name v1.ResourceName, amount resource.Quantity) {
		q, ok := out[name]
		if !ok {
			return
		}
		q.Sub(amount)
		if q.Sign() < 0 {
			q.Set(0)
		}
		out[name] = q
	}
	for _, list := range []v1.ResourceList{r.System, r.Kube} {
		for name, amount := range list {
			take(name, amount)
		}
	}
	take(v1.ResourceMemory, r.Memory.of(m.Memory))
	take(v1.ResourceEphemeralStorage, r.Storage.of(m.Storage))
	for _, bytes := range m.HugePages {
		take(v1.ResourceMemory, *resource.NewQuantity(bytes, resource.BinarySI))
	}
	return out
}

// compute works out the node's status. What others have put into old stays.
func (c *Config) compute(old *v1.NodeStatus, rt seen, images []v1.ContainerImage, now time.Time) v1.NodeStatus {
	out := *old.DeepCopy()
	mine := capacity(&c.Machine, c.MaxPods)
	out.Capacity = withOthers(mine, old.Capacity)
	out.Allocatable = withOthers(allocatable(&c.Machine, c.MaxPods, c.Reserve), old.Allocatable)
	out.Addresses = c.addresses()
	out.DaemonEndpoints.KubeletEndpoint.Port = c.Port
	out.NodeInfo = c.nodeInfo(rt)
	out.Images = images
	out.RuntimeHandlers, out.Features = handlers(rt.status)
	pressure := Pressure{}
	if c.Pressure != nil {
		pressure = c.Pressure()
	}
	for _, cond := range conditions(pressure, readiness(rt)) {
		cond.LastHeartbeatTime, cond.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
		node.SetCondition(&out, cond)
	}
	return out
}

// withOthers adds the extended resources that others have written.
func withOthers(own, old v1.ResourceList) v1.ResourceList {
	for name, q := range old {
		if strings.Contains(string(name), "/") && !strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			own[name] = q
		}
	}
	return own
}

func (c *Config) addresses() []v1.NodeAddress {
	var out []v1.NodeAddress
	for _, ip := range c.HostIPs() {
		out = append(out, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	return append(out, v1.NodeAddress{Type: v1.NodeHostName, Address: c.hostname()})
}

func (c *Config) hostname() string {
	if c.Hostname != "" {
		return c.Hostname
	}
	return strings.ToLower(c.Machine.Hostname)
}

func (c *Config) nodeInfo(rt seen) v1.NodeSystemInfo {
	m := &c.Machine
	out := v1.NodeSystemInfo{
		MachineID: m.MachineID, SystemUUID: m.SystemUUID, BootID: m.BootID,
		KernelVersion: m.Kernel, OSImage: m.OSImage, OperatingSystem: m.OS, Architecture: m.Arch,
		KubeletVersion: version.Git(), ContainerRuntimeVersion: "unknown://unknown",
	}
	if v := rt.version; v != nil {
		out.ContainerRuntimeVersion = v.RuntimeName + "://" + strings.TrimPrefix(v.RuntimeVersion, "v")
	}
	if m.Swap > 0 {
		out.Swap = &v1.NodeSwapStatus{Capacity: &m.Swap}
	}
	return out
}

// handlers translates what the runtime can do.
func handlers(s *runtimeapi.StatusResponse) ([]v1.NodeRuntimeHandler, *v1.NodeFeatures) {
	var out []v1.NodeRuntimeHandler
	for _, h := range s.GetRuntimeHandlers() {
		own := v1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			own.Features = &v1.NodeRuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &f.UserNamespaces,
			}
		}
		out = append(out, own)
	}
	slices.SortFunc(out, func(a, b v1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
	if f := s.GetFeatures(); f != nil {
		return out, &v1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
	}
	return out, nil
}

// readiness lists what keeps the node from running pods.
func readiness(rt seen) []string {
	if rt.err != nil {
		return []string{fmt.Sprintf("container runtime is down: %v", rt.err)}
	}
	found := map[string]*runtimeapi.RuntimeCondition{}
	for _, c := range rt.status.GetStatus().GetConditions() {
		found[c.Type] = c
	}
	var out []string
	for _, need := range []struct{ name, text string }{
		{runtimeapi.RuntimeReady, "container runtime not ready"},
		{runtimeapi.NetworkReady, "container runtime network not ready"},
	} {
		switch c := found[need.name]; {
		case c == nil:
			out = append(out, need.text+": the container runtime does not tell "+need.name)
		case !c.Status:
			out = append(out, fmt.Sprintf("%s: %s=%v reason:%s message:%s", need.text, c.Type, c.Status, c.Reason, c.Message))
		}
	}
	return out
}

// conditions returns the node's own conditions, in the order that tools show.
func conditions(p Pressure, trouble []string) []v1.NodeCondition {
	one := func(t v1.NodeConditionType, on bool, yes, yesText, no, noText string) v1.NodeCondition {
		if on {
			return v1.NodeCondition{Type: t, Status: v1.ConditionTrue, Reason: yes, Message: yesText}
		}
		return v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: no, Message: noText}
	}
	text := strings.Join(trouble, ", ")
	if len(trouble) > 1 {
		text = "[" + text + "]"
	}
	return []v1.NodeCondition{
		one(v1.NodeMemoryPressure, p.Memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		one(v1.NodeDiskPressure, p.Disk, "KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		one(v1.NodePIDPressure, p.PIDs, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		one(v1.NodeReady, len(trouble) == 0, "KubeletReady", "kubelet is posting ready status", "KubeletNotReady", text),
	}
}

// DefaultMaxImages is how many images the status of a node lists.
const DefaultMaxImages = 50

const maxImageNames = 5

// imageList returns the largest images, as the scheduler looks at them; all of
// them if most is -1.
func imageList(images []*runtimeapi.Image, most int) []v1.ContainerImage {
	out := make([]v1.ContainerImage, 0, len(images))
	for _, i := range images {
		names := slices.Concat(i.RepoDigests, i.RepoTags)
		if len(names) == 0 {
			continue
		}
		out = append(out, v1.ContainerImage{Names: names[:min(len(names), maxImageNames)], SizeBytes: int64(i.Size)}) //nolint:gosec // sizes fit
	}
	slices.SortFunc(out, func(a, b v1.ContainerImage) int {
		if a.SizeBytes != b.SizeBytes {
			return int(max(min(b.SizeBytes-a.SizeBytes, 1), -1))
		}
		return strings.Compare(a.Names[0], b.Names[0])
	})
	if most < 0 {
		return out
	}
	return out[:min(len(out), most)]
}

// labels are those every node has, and those that were asked for.
func (c *Config) labels() map[string]string {
	out := c.ownLabels()
	maps.Copy(out, c.Labels)
	return out
}

func (c *Config) ownLabels() map[string]string {
	return map[string]string{
		v1.LabelHostname: c.hostname(), v1.LabelOSStable: c.Machine.OS, v1.LabelArchStable: c.Machine.Arch,
		"beta.kubernetes.io/os": c.Machine.OS, "beta.kubernetes.io/arch": c.Machine.Arch,
	}
}
