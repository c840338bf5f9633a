package core

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/service"
)

// serviceAllocator chooses cluster IPs and node ports. What it chooses is held
// by claims, which are taken in the transaction that writes the service.
type serviceAllocator struct{ cfg ServiceConfig }

var errFull = errors.New("range is full")

func ipClaim(ip string) string { return "clusterip/" + ip }

func portClaim(protocol corev1.Protocol, port int32) string {
	return "nodeport/" + string(protocol) + "/" + strconv.Itoa(int(port))
}

func invalidService(name string, faults ...*field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), name, faults)
}

// claims lists the addresses and ports that s holds.
func (al serviceAllocator) claims(s *corev1.Service) []resource.Claim {
	var claims []resource.Claim
	held := map[string]bool{}
	add := func(key string, conflict error) {
		if !held[key] {
			claims = append(claims, resource.Claim{Key: key, Conflict: conflict})
		}
		held[key] = true
	}
	for _, ip := range service.ClusterIPs(s) {
		if a, err := netip.ParseAddr(ip); err == nil {
			add(ipClaim(a.String()), invalidService(s.Name, field.Invalid(field.NewPath("spec", "clusterIPs"), []string{ip},
				fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", ip))))
		}
	}
	for i, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			add(portClaim(p.Protocol, p.NodePort), invalidService(s.Name, field.Invalid(
				field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, "provided port is already allocated")))
		}
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 {
		add(portClaim(corev1.ProtocolTCP, n), apierrors.NewInternalError(
			fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: provided port is already allocated", n)))
	}
	return claims
}

// allocate fills in the addresses and ports that s needs and the client did not
// choose, and refuses chosen ones outside of the cluster's ranges.
func (al serviceAllocator) allocate(ctx context.Context, a resource.Access, s, old *corev1.Service) error {
	if err := al.clusterIPs(ctx, a, s, old); err != nil {
		return err
	}
	taken := map[string]bool{} // chosen for this service already
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			taken[portClaim(p.Protocol, p.NodePort)] = true
		}
	}
	if err := al.nodePorts(ctx, a, s, taken); err != nil {
		return err
	}
	if service.NeedsHealthCheck(s) && s.Spec.HealthCheckNodePort == 0 {
		n, err := al.nodePort(ctx, a, taken, corev1.ProtocolTCP)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err))
		}
		s.Spec.HealthCheckNodePort = n
	}
	return al.checkPorts(s, old)
}

func (al serviceAllocator) clusterIPs(ctx context.Context, a resource.Access, s, old *corev1.Service) error {
	if !service.WantsClusterIP(s.Spec.Type) || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	held := map[string]bool{}
	if old != nil {
		for _, ip := range old.Spec.ClusterIPs {
			held[ip] = true
		}
	}
	for _, ip := range s.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil && !held[ip] && !al.contains(addr) {
			return invalidService(s.Name, field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs,
				fmt.Sprintf("failed to allocate IP %s: the provided network does not match the current range", ip)))
		}
	}
	for i := len(s.Spec.ClusterIPs); i < len(s.Spec.IPFamilies); i++ {
		cidr, ok := al.cidr(s.Spec.IPFamilies[i])
		if !ok {
			return nil // validation says that the family is not configured
		}
		ip, err := freeIP(ctx, a, cidr)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return nil
}

func (al serviceAllocator) cidr(f corev1.IPFamily) (netip.Prefix, bool) {
	for i, family := range al.cfg.families() {
		if family == f {
			return al.cfg.CIDRs[i], true
		}
	}
	return netip.Prefix{}, false
}

// contains reports whether a service may have the address: it lies in a range
// of the cluster, and is neither the range's own address nor its broadcast.
func (al serviceAllocator) contains(ip netip.Addr) bool {
	for _, p := range al.cfg.CIDRs {
		if p.Contains(ip) {
			n := offsetIn(p, ip)
			return n >= 1 && n <= usable(p)
		}
	}
	return false
}

// maxHostBits bounds how much of an IPv6 range is used.
const maxHostBits = 32

// usable returns how many addresses of a range services can have; they are
// numbered from 1.
func usable(p netip.Prefix) int64 {
	bits := min(p.Addr().BitLen()-p.Bits(), maxHostBits)
	n := int64(1)<<bits - 1 // without the network's own address
	if p.Addr().Is4() && n > 0 {
		n-- // and the broadcast address
	}
	return n
}

func offsetIn(p netip.Prefix, ip netip.Addr) int64 {
	base, addr := p.Masked().Addr(), ip.Unmap()
	d := new(big.Int).Sub(new(big.Int).SetBytes(addr.AsSlice()), new(big.Int).SetBytes(base.AsSlice()))
	if !d.IsInt64() {
		return -1
	}
	return d.Int64()
}

func addressAt(p netip.Prefix, n int64) netip.Addr {
	base := p.Masked().Addr()
	sum := new(big.Int).Add(new(big.Int).SetBytes(base.AsSlice()), big.NewInt(n)).FillBytes(make([]byte, base.BitLen()/8))
	ip, _ := netip.AddrFromSlice(sum) // has the length of an address
	return ip
}

// freeIP chooses an address at random from the upper part of the range, which
// leaves the lower one, at least 16 and at most 256 addresses, to those who
// choose for themselves (KEP-3070).
func freeIP(ctx context.Context, a resource.Access, p netip.Prefix) (netip.Addr, error) {
	size := usable(p)
	n, err := pick(ctx, 1, size, reserved(size, 16, 256), func(n int64) (bool, error) {
		taken, err := a.Claimed(ctx, ipClaim(addressAt(p, n).String()))
		return !taken, err
	})
	return addressAt(p, n), err
}

// reserved is the size of the lower part of a range: a share of it, within
// bounds; nothing of a range too small to be divided.
func reserved(size, share, most int64) int64 {
	const least = 16
	if size < least {
		return 0
	}
	n := min(max(least, size/share), most)
	if n >= size {
		return 0
	}
	return n
}

// pick returns a free number of [first, last], from those above the reserved
// ones at the start if there is one.
func pick(ctx context.Context, first, last, reserve int64, free func(int64) (bool, error)) (int64, error) {
	for _, part := range [][2]int64{{first + reserve, last}, {first, first + reserve - 1}} {
		size := part[1] - part[0] + 1
		if size <= 0 {
			continue
		}
		start := rand.Int64N(size)
		for i := range size {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			n := part[0] + (start+i)%size
			if ok, err := free(n); err != nil || ok {
				return n, err
			}
		}
	}
	return 0, errFull
}

// nodePorts chooses node ports; the same port of two protocols gets one number.
func (al serviceAllocator) nodePorts(ctx context.Context, a resource.Access, s *corev1.Service, taken map[string]bool) error {
	if !service.WantsNodePorts(s) {
		return nil
	}
	chosen := map[int32]int32{}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 {
			chosen[p.Port] = p.NodePort
			continue
		}
		if n := chosen[p.Port]; n != 0 && !taken[portClaim(p.Protocol, n)] {
			held, err := a.Claimed(ctx, portClaim(p.Protocol, n))
			if err != nil {
				return err
			}
			if !held {
				p.NodePort = n
				taken[portClaim(p.Protocol, n)] = true
				continue
			}
		}
		n, err := al.nodePort(ctx, a, taken, p.Protocol)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		p.NodePort, chosen[p.Port] = n, n
	}
	return nil
}

// nodePort chooses one port as freeIP does an address (KEP-3668).
func (al serviceAllocator) nodePort(ctx context.Context, a resource.Access, taken map[string]bool, protocol corev1.Protocol) (int32, error) {
	first, last := int64(al.cfg.FirstNodePort), int64(al.cfg.LastNodePort)
	n, err := pick(ctx, first, last, reserved(last-first+1, 32, 128), func(n int64) (bool, error) {
		key := portClaim(protocol, int32(n))
		if taken[key] {
			return false, nil
		}
		held, err := a.Claimed(ctx, key)
		return !held, err
	})
	if err != nil {
		return 0, err
	}
	taken[portClaim(protocol, int32(n))] = true
	return int32(n), nil
}

// checkPorts refuses node ports outside of the range, but for those that s
// has had before the range was changed.
func (al serviceAllocator) checkPorts(s, old *corev1.Service) error {
	held := map[int32]bool{0: true}
	if old != nil {
		held[old.Spec.HealthCheckNodePort] = true
		for _, p := range old.Spec.Ports {
			held[p.NodePort] = true
		}
	}
	text := fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", al.cfg.FirstNodePort, al.cfg.LastNodePort)
	outside := func(n int32) bool { return !held[n] && (n < al.cfg.FirstNodePort || n > al.cfg.LastNodePort) }
	for i, p := range s.Spec.Ports {
		if outside(p.NodePort) {
			return invalidService(s.Name, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, text))
		}
	}
	if n := s.Spec.HealthCheckNodePort; outside(n) {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %s", n, text))
	}
	return nil
}
