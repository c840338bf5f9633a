package check

import "net/netip"

// EndpointIP reports an address that no endpoint may have: traffic sent to it
// would reach the node itself or its link (CVE-2021-25737).
func (r *Report) EndpointIP(value string) {
	r.IP(value)
	ip, err := netip.ParseAddr(value)
	if err != nil {
		return // reported by IP
	}
	switch ip = ip.Unmap(); {
	case ip.IsUnspecified():
		r.Invalid(value, "may not be unspecified (0.0.0.0)")
	case ip.IsLoopback():
		r.Invalid(value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	case ip.IsLinkLocalUnicast():
		r.Invalid(value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	case ip.IsLinkLocalMulticast():
		r.Invalid(value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}
