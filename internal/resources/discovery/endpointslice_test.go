package discovery

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff.dev/skiff/internal/check"
)

func TestEndpointSlice(t *testing.T) {
	slice := func(addresses ...string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: addresses}},
			Ports: []discoveryv1.EndpointPort{{}}}
	}
	v6 := slice("fd00::1")
	v6.AddressType = discoveryv1.AddressTypeIPv6
	twice := slice("10.1.1.1")
	twice.Ports = append(twice.Ports, discoveryv1.EndpointPort{})
	untyped := slice("10.1.1.1")
	untyped.AddressType = "Odd"
	for _, tc := range []struct {
		name     string
		obj, old *discoveryv1.EndpointSlice
		want     []string
	}{
		{"valid", slice("10.1.1.1"), nil, nil},
		{"no address", slice(), nil, []string{"endpoints[0].addresses: Required value: must contain at least 1 address"}},
		{"other family", slice("fd00::1"), nil, []string{`endpoints[0].addresses[0]: Invalid value: "fd00::1": must be an IPv4 address`}},
		{"link-local", slice("169.254.169.254"), nil, []string{
			`endpoints[0].addresses[0]: Invalid value: "169.254.169.254": may not be in the link-local range (169.254.0.0/16, fe80::/10)`}},
		{"same port name", twice, nil, []string{`ports[1].name: Duplicate value: ""`}},
		{"unknown type", untyped, nil, []string{`addressType: Unsupported value: "Odd": supported values: "FQDN", "IPv4", "IPv6"`}},
		{"type changed", v6, slice("10.1.1.1"), []string{`addressType: Invalid value: "IPv6": field is immutable`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defaultSlice(tc.obj)
			r := check.NewReport()
			validateSlice(r, tc.obj, tc.old)
			var got []string
			for _, f := range r.Errors() {
				got = append(got, f.Error())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCells(t *testing.T) {
	port := func(n int32) discoveryv1.EndpointPort { return discoveryv1.EndpointPort{Port: &n} }
	if got := portsText([]discoveryv1.EndpointPort{port(1), port(2), port(3), port(4), port(5)}); got != "1,2,3 + 2 more..." {
		t.Errorf("got %q", got)
	}
	if got := endpointsText(nil); got != "<unset>" {
		t.Errorf("got %q", got)
	}
}
