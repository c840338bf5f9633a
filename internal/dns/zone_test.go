package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fakeSource is a Source in memory.
type fakeSource struct {
	unsynced   bool
	namespaces []string
	services   []*corev1.Service
	slices     []*discoveryv1.EndpointSlice
}

func (f *fakeSource) Synced() bool                  { return !f.unsynced }
func (f *fakeSource) HasNamespace(name string) bool { return slices.Contains(f.namespaces, name) }

func (f *fakeSource) Service(namespace, name string) *corev1.Service {
	for _, s := range f.services {
		if s.Namespace == namespace && s.Name == name {
			return s
		}
	}
	return nil
}

func (f *fakeSource) EndpointSlices(namespace, service string) (out []*discoveryv1.EndpointSlice) {
	for _, s := range f.slices {
		if s.Namespace == namespace && s.Labels[discoveryv1.LabelServiceName] == service {
			out = append(out, s)
		}
	}
	return out
}

func (f *fakeSource) ServicesByIP(ip string) (out []*corev1.Service) {
	for _, s := range f.services {
		if slices.Contains(s.Spec.ClusterIPs, ip) {
			out = append(out, s)
		}
	}
	return out
}

func (f *fakeSource) EndpointSlicesByIP(ip string) (out []*discoveryv1.EndpointSlice) {
	for _, s := range f.slices {
		for _, e := range s.Endpoints {
			if slices.Contains(e.Addresses, ip) {
				out = append(out, s)
			}
		}
	}
	return out
}

func ptr[T any](v T) *T { return &v }

func testSource() *fakeSource {
	svc := func(name string, spec corev1.ServiceSpec) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name}, Spec: spec}
	}
	web := []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}
	epPorts := []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}}
	slice := func(name string, addressType discoveryv1.AddressType, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name + string(addressType), Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: addressType, Endpoints: endpoints, Ports: epPorts}
	}
	unready := discoveryv1.EndpointConditions{Ready: ptr(false)}
	return &fakeSource{
		namespaces: []string{"ns1", "empty"},
		services: []*corev1.Service{
			svc("web", corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00::1"}, Ports: web}),
			svc("v4", corev1.ServiceSpec{ClusterIP: "10.96.0.2", ClusterIPs: []string{"10.96.0.2"}}),
			svc("db", corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}),
			svc("all", corev1.ServiceSpec{ClusterIP: "None", PublishNotReadyAddresses: true}),
			svc("none", corev1.ServiceSpec{ClusterIP: "None"}),
			svc("ext", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "WWW.example.com"}),
			svc("alias", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.ns1.svc.cluster.local"}),
			svc("self", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "self.ns1.svc.cluster.local"}),
		},
		slices: []*discoveryv1.EndpointSlice{
			slice("db", discoveryv1.AddressTypeIPv4,
				discoveryv1.Endpoint{Addresses: []string{"10.244.0.5"}, Hostname: ptr("db-0")},
				discoveryv1.Endpoint{Addresses: []string{"10.244.0.6"}},
				discoveryv1.Endpoint{Addresses: []string{"10.244.0.7"}, Hostname: ptr("db-2"), Conditions: unready}),
			slice("db", discoveryv1.AddressTypeIPv6, discoveryv1.Endpoint{Addresses: []string{"fd00::5"}, Hostname: ptr("db-0")}),
			slice("all", discoveryv1.AddressTypeIPv4, discoveryv1.Endpoint{Addresses: []string{"10.244.0.8"}, Hostname: ptr("x"), Conditions: unready}),
			slice("web", discoveryv1.AddressTypeIPv4, discoveryv1.Endpoint{Addresses: []string{"10.244.0.9"}}),
		},
	}
}

func testZone() *zone {
	return &zone{domain: "cluster.local.", ttl: 5, addrs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, src: testSource()}
}

// short renders records as "TYPE data", sorted: the order is drawn at random.
func short(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		f := strings.Fields(rr.String())
		out = append(out, strings.Join(f[3:], " "))
	}
	slices.Sort(out)
	return out
}

func TestZone(t *testing.T) {
	const ok, nx = dns.RcodeSuccess, dns.RcodeNameError
	for _, test := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
	}{
		{"cluster.local.", dns.TypeNS, ok, []string{"NS ns.dns.cluster.local."}},
		{"cluster.local.", dns.TypeA, ok, nil},
		{"ns.dns.cluster.local.", dns.TypeA, ok, []string{"A 10.96.0.10"}},
		{"dns-version.cluster.local.", dns.TypeTXT, ok, []string{`TXT "1.1.0"`}},
		{"dns-version.cluster.local.", dns.TypeA, ok, nil},
		{"nothing.cluster.local.", dns.TypeA, nx, nil},
		{"svc.cluster.local.", dns.TypeA, ok, nil},
		{"ns1.svc.cluster.local.", dns.TypeA, ok, nil},
		{"empty.svc.cluster.local.", dns.TypeAAAA, ok, nil},
		{"gone.svc.cluster.local.", dns.TypeA, nx, nil},
		{"web.gone.svc.cluster.local.", dns.TypeA, nx, nil},
		{"gone.ns1.svc.cluster.local.", dns.TypeA, nx, nil},

		{"web.ns1.svc.cluster.local.", dns.TypeA, ok, []string{"A 10.96.0.1"}},
		{"web.ns1.svc.cluster.local.", dns.TypeAAAA, ok, []string{"AAAA fd00::1"}},
		{"web.ns1.svc.cluster.local.", dns.TypeANY, ok, []string{"A 10.96.0.1", "AAAA fd00::1"}},
		{"web.ns1.svc.cluster.local.", dns.TypeMX, ok, nil},
		{"v4.ns1.svc.cluster.local.", dns.TypeAAAA, ok, nil},
		{"x.web.ns1.svc.cluster.local.", dns.TypeA, nx, nil},
		{"10-244-0-9.web.ns1.svc.cluster.local.", dns.TypeA, nx, nil},
		{"_http._tcp.web.ns1.svc.cluster.local.", dns.TypeSRV, ok, []string{"SRV 0 100 80 web.ns1.svc.cluster.local."}},
		{"_http._tcp.web.ns1.svc.cluster.local.", dns.TypeA, ok, nil},
		{"_http._udp.web.ns1.svc.cluster.local.", dns.TypeSRV, nx, nil},
		{"_tcp.web.ns1.svc.cluster.local.", dns.TypeSRV, ok, nil},
		{"_sctp.web.ns1.svc.cluster.local.", dns.TypeSRV, nx, nil},
		{"web.ns1.svc.cluster.local.", dns.TypeSRV, ok, []string{"SRV 0 50 53 web.ns1.svc.cluster.local.", "SRV 0 50 80 web.ns1.svc.cluster.local."}},

		{"db.ns1.svc.cluster.local.", dns.TypeA, ok, []string{"A 10.244.0.5", "A 10.244.0.6"}},
		{"db.ns1.svc.cluster.local.", dns.TypeAAAA, ok, []string{"AAAA fd00::5"}},
		{"db-0.db.ns1.svc.cluster.local.", dns.TypeA, ok, []string{"A 10.244.0.5"}},
		{"db-0.db.ns1.svc.cluster.local.", dns.TypeAAAA, ok, []string{"AAAA fd00::5"}},
		{"10-244-0-6.db.ns1.svc.cluster.local.", dns.TypeA, ok, []string{"A 10.244.0.6"}},
		{"10-244-0-6.db.ns1.svc.cluster.local.", dns.TypeAAAA, ok, nil},
		{"10-244-0-5.db.ns1.svc.cluster.local.", dns.TypeA, nx, nil}, // it has a name
		{"db-2.db.ns1.svc.cluster.local.", dns.TypeA, nx, nil},       // not ready
		{"_http._tcp.db.ns1.svc.cluster.local.", dns.TypeSRV, ok, []string{
			"SRV 0 50 8080 10-244-0-6.db.ns1.svc.cluster.local.", "SRV 0 50 8080 db-0.db.ns1.svc.cluster.local."}},
		{"x.all.ns1.svc.cluster.local.", dns.TypeA, ok, []string{"A 10.244.0.8"}},
		{"none.ns1.svc.cluster.local.", dns.TypeA, ok, nil}, // it exists

		{"ext.ns1.svc.cluster.local.", dns.TypeA, ok, []string{"CNAME www.example.com."}},
		{"ext.ns1.svc.cluster.local.", dns.TypeCNAME, ok, []string{"CNAME www.example.com."}},

		{"10-244-0-5.ns1.pod.cluster.local.", dns.TypeA, ok, []string{"A 10.244.0.5"}},
		{"fd00--5.ns1.pod.cluster.local.", dns.TypeAAAA, ok, []string{"AAAA fd00::5"}},
		{"10-244-0-5.gone.pod.cluster.local.", dns.TypeA, nx, nil},
		{"nobody.ns1.pod.cluster.local.", dns.TypeA, nx, nil},
	} {
		r := testZone().answer(test.name, test.qtype)
		if r.rcode != test.rcode {
			t.Errorf("%s %s: %s, want %s", test.name, dns.TypeToString[test.qtype], dns.RcodeToString[r.rcode], dns.RcodeToString[test.rcode])
		}
		if diff := cmp.Diff(test.want, short(r.answer)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.name, dns.TypeToString[test.qtype], diff)
		}
	}
}

func TestSRVBringsAddresses(t *testing.T) {
	r := testZone().answer("_http._tcp.db.ns1.svc.cluster.local.", dns.TypeSRV)
	want := []string{"A 10.244.0.5", "A 10.244.0.6", "AAAA fd00::5"}
	if diff := cmp.Diff(want, short(r.extra)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReverse(t *testing.T) {
	for _, test := range []struct{ ip, want string }{
		{"10.96.0.1", "PTR web.ns1.svc.cluster.local."},
		{"fd00::1", "PTR web.ns1.svc.cluster.local."},
		{"10.244.0.5", "PTR db-0.db.ns1.svc.cluster.local."},
		{"10.244.0.6", "PTR 10-244-0-6.db.ns1.svc.cluster.local."},
		{"10.244.0.9", ""}, // of a Service with a cluster IP
		{"8.8.8.8", ""},
	} {
		name, err := dns.ReverseAddr(test.ip)
		if err != nil {
			t.Fatal(err)
		}
		r, ok := testZone().reverse(name)
		if got := strings.Join(short(r.answer), ", "); got != test.want || ok != (test.want != "") {
			t.Errorf("%s: %q, the cluster's: %v; want %q", test.ip, got, ok, test.want)
		}
	}
}

// I34: while nothing is loaded, nothing is said not to exist.
func TestUnsyncedSaysNothingIsMissing(t *testing.T) {
	z := testZone()
	z.src = &fakeSource{unsynced: true}
	for _, name := range []string{"web.ns1.svc.cluster.local.", "ns1.svc.cluster.local.", "10-0-0-1.ns1.pod.cluster.local."} {
		if r := z.answer(name, dns.TypeA); r.rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %s", name, dns.RcodeToString[r.rcode])
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("_http._tcp.db.ns1.svc.cluster.local.", dns.TypeSRV)
	f.Add("1.0.96.10.in-addr.arpa.", dns.TypePTR)
	f.Add("x..svc.cluster.local.", dns.TypeA)
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		if _, ok := dns.IsDomainName(name); !ok {
			return
		}
		name = dns.CanonicalName(name)
		z := testZone()
		if dns.IsSubDomain(z.domain, name) {
			z.answer(name, qtype)
		}
		z.reverse(name)
	})
}
