package app

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// hostIP returns the address of the interface that the default route goes
// through, or, without one, the first that is not loopback.
func hostIP() (string, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("reading the host's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if r.Src != nil {
			return r.Src.String(), nil
		}
		if ip := linkIP(r.LinkIndex); ip != "" {
			return ip, nil
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("reading the host's interfaces: %w", err)
	}
	for _, l := range links {
		if l.Flags&net.FlagLoopback == 0 && l.Flags&net.FlagUp != 0 {
			if ip := linkIP(l.Index); ip != "" {
				return ip, nil
			}
		}
	}
	return "", errors.New("the host has no address but loopback; give one with --node-ip")
}

func linkIP(index int) string {
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return ""
	}
	addrs, err := link.Addrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	return ""
}
