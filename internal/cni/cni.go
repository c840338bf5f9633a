// Package cni is skiff's network plugin (CNI specification 1.1.0) and what a
// node needs around it: it gives every pod a veth pair to the node, an address
// per family from the node's pod CIDRs, and host ports.
//
// The pairs are routed, not bridged. Every packet of a pod goes through the
// node's IP layer, even to a pod on the same node, so that one set of rules
// sees all traffic, with or without br_netfilter. Both ends know each other as
// permanent neighbours: nothing is asked or announced, so no pod can pose as
// another by ARP or router advertisement, and the first packet does not wait.
//
// The plugin is a program (Main), and the same in a process that runs anyway
// (Server), which spares the node the program's start for every pod.
//
// It reads the network configuration from standard input and its own state.
// It writes links, addresses, neighbours and routes, the sysctls that make the
// node forward, the tables named HostPortTable, and its state: one file per
// attachment and one link per address, under StateDir.
package cni

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Version is the version of the CNI specification that Install configures.
const Version = "1.1.0"

// Network is the plugin's configuration, as it stands in the conflist.
type Network struct {
	types.PluginConf

	MTU      int            `json:"mtu,omitempty"`
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	StateDir string         `json:"stateDir"`
	// HostPortTable is the name of the tables for host ports.
	HostPortTable string `json:"hostPortTable"`

	RuntimeConfig struct {
		PortMappings []PortMapping `json:"portMappings,omitempty"`
	} `json:"runtimeConfig,omitzero"`
}

// PortMapping is one hostPort, as the runtime asks for it.
type PortMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Add attaches a container: it gets its link, addresses and routes. Doing it
// again for an attachment that exists is an error, as the specification has
// it; what a failed Add has done is undone.
func (n *Network) Add(container, netns, ifname string) (_ *types100.Result, err error) {
	s, err := openState(n.StateDir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	a := &attachment{Container: container, Ifname: ifname, Ports: n.RuntimeConfig.PortMappings}
	if _, err := s.read(a.name()); err == nil {
		return nil, fmt.Errorf("container %s has an interface %s already", container, ifname)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.remove(s, a))
		}
	}()
	for _, p := range n.PodCIDRs {
		ip, err := s.allocate(p, a.name())
		if err != nil {
			return nil, err
		}
		a.IPs = append(a.IPs, ip)
	}
	a.Veth = hostLink(container, ifname)
	if err := s.write(a); err != nil {
		return nil, err
	}
	if err := n.ensureNode(); err != nil {
		return nil, err
	}
	mac, err := n.attach(a, netns)
	if err != nil {
		return nil, err
	}
	if len(a.Ports) > 0 {
		if err := n.openHostPorts(s, a); err != nil {
			return nil, err
		}
	}
	return n.result(a, netns, mac), nil
}

// Del detaches a container. What is gone already is no error.
func (n *Network) Del(container, ifname string) error {
	s, err := openState(n.StateDir)
	if err != nil {
		return err
	}
	defer s.close()
	a, err := s.read((&attachment{Container: container, Ifname: ifname}).name())
	if errors.Is(err, errUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	return n.remove(s, a)
}

// remove takes an attachment away, its record last, so that a removal that
// was cut short is found and finished by GC.
func (n *Network) remove(s *state, a *attachment) error {
	if err := deleteLink(a.Veth); err != nil {
		return err
	}
	if len(a.Ports) > 0 {
		if err := n.syncHostPorts(s, a.name()); err != nil {
			return err
		}
	}
	if err := s.release(a.name()); err != nil {
		return err
	}
	return s.remove(a.name())
}

// GC removes all attachments but the ones named, and addresses that belong to
// none: what a crash between two steps has left.
func (n *Network) GC(valid []types.GCAttachment) error {
	keep := map[string]bool{}
	for _, v := range valid {
		keep[(&attachment{Container: v.ContainerID, Ifname: v.IfName}).name()] = true
	}
	return n.collect(func(a *attachment) bool { return keep[a.name()] })
}

func (n *Network) collect(keep func(*attachment) bool) error {
	s, err := openState(n.StateDir)
	if err != nil {
		return err
	}
	defer s.close()
	list, err := s.list()
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range list {
		if !keep(a) {
			errs = append(errs, n.remove(s, a))
		}
	}
	return errors.Join(append(errs, s.releaseOrphans())...)
}

// Check reports whether the attachment still stands as Add made it.
func (n *Network) Check(container, netns, ifname string) error {
	s, err := openState(n.StateDir)
	if err != nil {
		return err
	}
	defer s.close()
	a, err := s.read((&attachment{Container: container, Ifname: ifname}).name())
	if err != nil {
		return err
	}
	return checkLinks(a, netns)
}

// Status reports whether the plugin could serve an Add.
func (n *Network) Status() error {
	s, err := openState(n.StateDir)
	if err != nil {
		return types.NewError(types.ErrTryAgainLater, "state is not accessible", err.Error())
	}
	s.close()
	return nil
}

func (n *Network) result(a *attachment, netns, mac string) *types100.Result {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{
		{Name: a.Veth, Mac: hostMAC.String(), Mtu: n.MTU}, {Name: a.Ifname, Mac: mac, Mtu: n.MTU, Sandbox: netns},
	}}
	inPod := len(r.Interfaces) - 1
	for i, ip := range a.IPs {
		gw := gateway(n.PodCIDRs[i])
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inPod, Address: *host(ip), Gateway: gw.AsSlice()})
		r.Routes = append(r.Routes, &types.Route{Dst: *ipNet(anywhere(ip)), GW: gw.AsSlice()})
	}
	return r
}

// gateway is the node's own address in a pod CIDR: the first.
func gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }
