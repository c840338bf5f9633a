package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/service"
)

// capacity is how many addresses an Endpoints object holds at most.
const capacity = 1000

// member is one address on one port.
type member struct {
	address corev1.EndpointAddress //nolint:staticcheck // still served
	ready   bool
}

// portID identifies a port; Endpoints have no use for two alike.
type portID struct {
	name     string
	protocol corev1.Protocol
	number   int32
	app      string
}

// subsetsOf returns the subsets of svc in their normal form: ports that have
// the same addresses are listed together. It is pure.
func subsetsOf(svc *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset { //nolint:staticcheck // still served
	byPort := map[portID]map[string]member{}
	add := func(id portID, m member) {
		if byPort[id] == nil {
			byPort[id] = map[string]member{}
		}
		byPort[id][m.address.IP+"/"+string(m.address.TargetRef.UID)] = m
	}
	for _, p := range pods {
		if pod.IsTerminal(p) || p.DeletionTimestamp != nil && !svc.Spec.PublishNotReadyAddresses {
			continue
		}
		ip := addressOf(svc, p)
		if ip == "" {
			continue
		}
		m := member{address: corev1.EndpointAddress{ //nolint:staticcheck // still served
			IP: ip, Hostname: service.HostnameOf(p, svc),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		}, ready: svc.Spec.PublishNotReadyAddresses || pod.IsReady(p)}
		if p.Spec.NodeName != "" {
			m.address.NodeName = &p.Spec.NodeName
		}
		if len(svc.Spec.Ports) == 0 {
			add(portID{}, m) // headless services may do without ports
		}
		for i := range svc.Spec.Ports {
			sp := &svc.Spec.Ports[i]
			if n, ok := service.TargetPort(p, sp); ok {
				id := portID{name: sp.Name, protocol: sp.Protocol, number: n}
				if sp.AppProtocol != nil {
					id.app = *sp.AppProtocol
				}
				add(id, m)
			}
		}
	}
	return assemble(byPort)
}

// addressOf returns the pod's address of the service's first family.
func addressOf(svc *corev1.Service, p *corev1.Pod) string {
	for _, ip := range p.Status.PodIPs {
		f, ok := service.Family(ip.IP)
		if ok && (len(svc.Spec.IPFamilies) == 0 || f == svc.Spec.IPFamilies[0]) {
			return ip.IP
		}
	}
	return ""
}

// assemble joins the ports whose members are the same into one subset.
func assemble(byPort map[portID]map[string]member) (subsets []corev1.EndpointSubset) { //nolint:staticcheck // still served
	ids := slices.SortedFunc(maps.Keys(byPort), func(a, b portID) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.number, b.number), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.app, b.app))
	})
	at := map[string]int{}
	for _, id := range ids {
		var identity []byte
		var s corev1.EndpointSubset //nolint:staticcheck // still served
		members := byPort[id]
		for _, key := range slices.Sorted(maps.Keys(members)) {
			m := members[key]
			identity = strconv.AppendBool(append(identity, key...), m.ready)
			if m.ready {
				s.Addresses = append(s.Addresses, m.address)
			} else {
				s.NotReadyAddresses = append(s.NotReadyAddresses, m.address)
			}
		}
		i, ok := at[string(identity)]
		if !ok {
			i = len(subsets)
			at[string(identity)] = i
			subsets = append(subsets, s)
		}
		if id != (portID{}) {
			port := corev1.EndpointPort{Name: id.name, Port: id.number, Protocol: id.protocol} //nolint:staticcheck // still served
			if id.app != "" {
				port.AppProtocol = &id.app
			}
			subsets[i].Ports = append(subsets[i].Ports, port)
		}
	}
	return subsets
}

// truncate cuts the subsets to what an object holds, in proportion, those that
// are not ready first.
func truncate(subsets []corev1.EndpointSubset) ([]corev1.EndpointSubset, bool) { //nolint:staticcheck // still served
	ready, notReady := 0, 0
	for _, s := range subsets {
		ready += len(s.Addresses)
		notReady += len(s.NotReadyAddresses)
	}
	if ready+notReady <= capacity {
		return subsets, false
	}
	var cut []corev1.EndpointSubset //nolint:staticcheck // still served
	for _, s := range subsets {
		if ready > capacity {
			s.Addresses, s.NotReadyAddresses = s.Addresses[:len(s.Addresses)*capacity/ready], nil
		} else {
			s.NotReadyAddresses = s.NotReadyAddresses[:len(s.NotReadyAddresses)*(capacity-ready)/notReady]
		}
		if len(s.Addresses)+len(s.NotReadyAddresses) > 0 {
			cut = append(cut, s)
		}
	}
	return cut, true
}
