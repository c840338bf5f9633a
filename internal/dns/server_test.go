package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff.dev/skiff/internal/netlink/netnstest"
)

// start runs a server on free ports of the loopback and returns its address.
func start(t testing.TB, edit func(*Config)) string {
	cfg := Config{Source: testSource(), Domain: "cluster.local", Log: slog.New(slog.DiscardHandler)}
	if edit != nil {
		edit(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l.Addresses()[0].String()
}

// listen opens sockets on a port that is free for UDP and for TCP. The kernel
// chooses one for UDP, of which somebody may have the namesake for TCP.
func listen(t testing.TB) *Listeners {
	t.Helper()
	for {
		l, err := Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")})
		switch {
		case err == nil:
			return l
		case !errors.Is(err, unix.EADDRINUSE):
			t.Fatal(err)
		}
	}
}

func query(t testing.TB, network, server, name string, qtype uint16, edit ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := &dns.Msg{}
	m.SetQuestion(name, qtype)
	for _, e := range edit {
		e(m)
	}
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(m, server)
	if err != nil && (r == nil || !r.Truncated) {
		t.Fatalf("asking for %s: %v", name, err)
	}
	return r
}

// answering returns an Exchange that answers with one A record.
func answering(asked *atomic.Int64, ttl uint32) Exchange {
	return func(_ context.Context, _, _ string, m *dns.Msg) (*dns.Msg, error) {
		asked.Add(1)
		r := &dns.Msg{}
		r.SetReply(m)
		if strings.HasPrefix(m.Question[0].Name, "missing.") {
			r.Rcode = dns.RcodeNameError
			r.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.com.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 600}, Ns: "a.", Mbox: "b.", Minttl: ttl}}
			return r, nil
		}
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.IPv4(1, 2, 3, 4)}}
		return r, nil
	}
}

func TestServer(t *testing.T) {
	var asked atomic.Int64
	addr := start(t, func(c *Config) { c.Upstreams, c.Exchange = []string{"192.0.2.1:53"}, answering(&asked, 60) })
	for _, network := range []string{"udp", "tcp"} {
		r := query(t, network, addr, "WEB.ns1.svc.Cluster.Local.", dns.TypeA)
		if !r.Authoritative || r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 || r.Answer[0].Header().Name != "WEB.ns1.svc.Cluster.Local." {
			t.Errorf("%s: %v", network, r)
		}
		r = query(t, network, addr, "gone.ns1.svc.cluster.local.", dns.TypeA)
		if r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 || r.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Errorf("%s: a name that is not there: %v", network, r)
		}
		r = query(t, network, addr, "v4.ns1.svc.cluster.local.", dns.TypeAAAA)
		if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 0 || len(r.Ns) != 1 {
			t.Errorf("%s: a type that is not there: %v", network, r)
		}
		r = query(t, network, addr, "www.example.com.", dns.TypeA)
		if diff := cmp.Diff([]string{"A 1.2.3.4"}, short(r.Answer)); diff != "" || r.Authoritative || !r.RecursionAvailable {
			t.Errorf("%s: forwarded: %v", network, r)
		}
		r = query(t, network, addr, "ext.ns1.svc.cluster.local.", dns.TypeA)
		if diff := cmp.Diff([]string{"A 1.2.3.4", "CNAME www.example.com."}, short(r.Answer)); diff != "" {
			t.Errorf("%s: an external name: %s", network, diff)
		}
		r = query(t, network, addr, "alias.ns1.svc.cluster.local.", dns.TypeA)
		if diff := cmp.Diff([]string{"A 10.96.0.1", "CNAME web.ns1.svc.cluster.local."}, short(r.Answer)); diff != "" {
			t.Errorf("%s: an external name of the cluster's: %s", network, diff)
		}
		if r = query(t, network, addr, "self.ns1.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
			t.Errorf("%s: an external name of its own: %v", network, r)
		}
		if r = query(t, network, addr, "5.0.244.10.in-addr.arpa.", dns.TypePTR); len(r.Answer) != 1 || !r.Authoritative {
			t.Errorf("%s: reverse: %v", network, r)
		}
	}
	if r := query(t, "udp", addr, "web.ns1.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, true) }); r.IsEdns0() == nil || r.IsEdns0().UDPSize() != ednsSize {
		t.Errorf("EDNS: %v", r)
	}
	if r := query(t, "udp", addr, "web.ns1.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false); m.IsEdns0().SetVersion(1) }); r.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v", r)
	}
}

func TestLargeAnswersAreTruncated(t *testing.T) {
	src := testSource()
	var list []discoveryv1.Endpoint
	for i := range 100 {
		list = append(list, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.9.%d", i)}})
	}
	src.slices[0].Endpoints = list
	addr := start(t, func(c *Config) { c.Source = src })
	const name = "db.ns1.svc.cluster.local."
	small := query(t, "udp", addr, name, dns.TypeA)
	small.Compress = true // as it came
	if !small.Truncated || small.Len() > dns.MinMsgSize {
		t.Errorf("without EDNS: %d bytes, truncated %v", small.Len(), small.Truncated)
	}
	edns := query(t, "udp", addr, name, dns.TypeA, func(m *dns.Msg) { m.SetEdns0(65000, false) })
	edns.Compress = true
	if !edns.Truncated || edns.Len() > ednsSize || len(edns.Answer) <= len(small.Answer) {
		t.Errorf("with EDNS: %d bytes, truncated %v", edns.Len(), edns.Truncated)
	}
	if r := query(t, "tcp", addr, name, dns.TypeA); r.Truncated || len(r.Answer) != 100 {
		t.Errorf("over TCP: %d records, truncated %v", len(r.Answer), r.Truncated)
	}
}

func TestForwardKeepsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		f := newForwarder(answering(&asked, 60), 3)
		f.set([]string{"a"})
		ask := func(name string) *dns.Msg {
			m, _ := f.resolve(t.Context(), dns.Question{Name: name, Qtype: dns.TypeA, Qclass: dns.ClassINET}, false, false)
			return m
		}
		ask("www.example.com.")
		time.Sleep(20 * time.Second)
		if m := ask("WWW.example.com."); asked.Load() != 1 || m.Answer[0].Header().Ttl != 40 {
			t.Errorf("after 20 s: asked %d times, TTL %d", asked.Load(), m.Answer[0].Header().Ttl)
		}
		time.Sleep(40 * time.Second)
		if m := ask("www.example.com."); asked.Load() != 2 || m.Answer[0].Header().Ttl != 60 {
			t.Errorf("after its time: asked %d times, TTL %d", asked.Load(), m.Answer[0].Header().Ttl)
		}
		ask("missing.example.com.")
		time.Sleep(59 * time.Second)
		if m := ask("missing.example.com."); asked.Load() != 3 || m.Rcode != dns.RcodeNameError {
			t.Errorf("a negative answer: asked %d times, %v", asked.Load(), m)
		}
		for i := range 10 {
			ask(fmt.Sprintf("n%d.example.com.", i))
		}
		if n := f.cache.len(); n != 3 {
			t.Errorf("the cache holds %d answers, want 3", n)
		}
		// Many ask at once: one question goes out.
		before := asked.Load()
		slow := f.exchange
		f.exchange = func(ctx context.Context, n, u string, m *dns.Msg) (*dns.Msg, error) {
			time.Sleep(time.Second)
			return slow(ctx, n, u, m)
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { ask("once.example.com.") })
		}
		wg.Wait()
		if n := asked.Load() - before; n != 1 {
			t.Errorf("100 at once asked %d times", n)
		}
	})
}

func TestForwardTriesOthers(t *testing.T) {
	var log []string
	f := newForwarder(func(_ context.Context, network, upstream string, m *dns.Msg) (*dns.Msg, error) {
		log = append(log, network+" "+upstream)
		r := &dns.Msg{}
		r.SetReply(m)
		switch upstream {
		case "dead":
			return nil, errors.New("no route")
		case "lying":
			r.Question[0].Name = "other."
		case "failing":
			r.Rcode = dns.RcodeServerFailure
		default:
			r.Truncated = network == "udp"
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(1, 1, 1, 1)}}
		}
		return r, nil
	}, 10)
	ask := func(name string) *dns.Msg {
		m, _ := f.resolve(context.Background(), dns.Question{Name: name, Qtype: dns.TypeA, Qclass: dns.ClassINET}, false, false)
		return m
	}
	f.set([]string{"dead", "lying", "failing", "good"})
	if m := ask("a."); len(m.Answer) != 1 {
		t.Errorf("got %v", m)
	}
	ask("b.")
	want := []string{"udp dead", "udp lying", "udp failing", "udp good", "tcp good", "udp good", "tcp good"}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.set([]string{"dead"})
	if m := ask("c."); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("no upstream answers: %v", m)
	}
	f.set(nil)
	if m := ask("d."); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("no upstreams: %v", m)
	}
}

// An upstream that forwards to us would send every question round and round.
func TestLoopIsFound(t *testing.T) {
	var mu sync.Mutex
	var addr string
	probed := make(chan struct{})
	var once sync.Once
	ready := make(chan struct{})
	loop := func(ctx context.Context, network, upstream string, m *dns.Msg) (*dns.Msg, error) {
		<-ready
		mu.Lock()
		self := addr
		mu.Unlock()
		r, err := exchange(ctx, network, self, m)
		if m.Question[0].Qtype == dns.TypeHINFO {
			once.Do(func() { close(probed) })
		}
		return r, err
	}
	a := start(t, func(c *Config) { c.Upstreams, c.Exchange = []string{"192.0.2.1:53"}, loop })
	mu.Lock()
	addr = a
	mu.Unlock()
	close(ready)
	<-probed
	if r := query(t, "udp", a, "www.example.com.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v, want SERVFAIL as there is no upstream left", r)
	}
}

func TestBind(t *testing.T) {
	ns := netnstest.New(t)
	ns.Do(t, func() {
		list := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::a")}
		for range 2 {
			if err := Bind(list); err != nil {
				t.Fatal(err)
			}
		}
		l, err := Listen([]netip.AddrPort{netip.AddrPortFrom(list[0], 53), netip.AddrPortFrom(list[1], 53)})
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		for range 2 {
			if err := Unbind(list); err != nil {
				t.Fatal(err)
			}
		}
		if l, err := Listen([]netip.AddrPort{netip.AddrPortFrom(list[0], 53)}); err == nil {
			l.Close()
			t.Error("the address is still there")
		}
	})
}

// BenchmarkAnswer answers for a Service, from the message to the message.
func BenchmarkAnswer(b *testing.B) {
	src := testSource()
	var list []discoveryv1.Endpoint
	for i := range 20 {
		list = append(list, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.9.%d", i)}})
	}
	src.slices[0].Endpoints = list
	s, err := New(Config{Source: src, Domain: "cluster.local", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for _, test := range []struct {
		name, q string
		qtype   uint16
	}{
		{"clusterip", "web.ns1.svc.cluster.local.", dns.TypeA},
		{"headless20", "db.ns1.svc.cluster.local.", dns.TypeA},
		{"nxdomain", "www.example.com.ns1.svc.cluster.local.", dns.TypeA},
	} {
		b.Run(test.name, func(b *testing.B) {
			req := &dns.Msg{}
			req.SetQuestion(test.q, test.qtype)
			b.ReportAllocs()
			for b.Loop() {
				m, _ := s.answer(context.Background(), req)
				if _, err := m.Pack(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkServer is a whole question over UDP on the loopback.
func BenchmarkServer(b *testing.B) {
	addr := start(b, nil)
	b.RunParallel(func(pb *testing.PB) {
		c, err := dns.Dial("udp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		m := &dns.Msg{}
		m.SetQuestion("web.ns1.svc.cluster.local.", dns.TypeA)
		for pb.Next() {
			if err := c.WriteMsg(m); err != nil {
				b.Error(err)
				return
			}
			if _, err := c.ReadMsg(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
