package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bind puts addresses, such as the cluster IP of the DNS Service, on the
// loopback of the calling thread's network namespace, so that every node
// answers them itself. Addresses that are there already are left as they are.
// The service proxy must leave that Service alone (label
// service.kubernetes.io/service-proxy-name).
func Bind(addresses []netip.Addr) error {
	return eachAddress(addresses, func(lo netlink.Link, a *netlink.Addr) error {
		if err := netlink.AddrAdd(lo, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding %s to lo: %w", a.IP, err)
		}
		return nil
	})
}

// Unbind takes the addresses off again. What is gone already is no error.
func Unbind(addresses []netip.Addr) error {
	return eachAddress(addresses, func(lo netlink.Link, a *netlink.Addr) error {
		if err := netlink.AddrDel(lo, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing %s from lo: %w", a.IP, err)
		}
		return nil
	})
}

func eachAddress(addresses []netip.Addr, f func(netlink.Link, *netlink.Addr) error) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	var errs []error
	for _, ip := range addresses {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}}
		if ip.Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		errs = append(errs, f(lo, a))
	}
	return errors.Join(errs...)
}
