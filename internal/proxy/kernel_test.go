package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/netlink/netnstest"
	"skiff.dev/skiff/internal/nftables"
)

// lab is a node with two pods and a neighbour, each a network namespace of
// its own: real packets, real rules.
type lab struct {
	t                      *testing.T
	node, pod1, pod2, peer *netnstest.NS
	kernel                 *nftables.NetNS
	backend                Backend
	all                    map[Key][]Port
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, node: netnstest.New(t), pod1: netnstest.New(t), pod2: netnstest.New(t), peer: netnstest.New(t), all: map[Key][]Port{}}
	l.wire(l.pod1, "10.244.0.1/32", "10.244.0.5/32")
	l.wire(l.pod2, "10.244.0.1/32", "10.244.0.6/32")
	l.wire(l.peer, "192.168.0.2/32", "192.168.0.3/32")
	l.node.Do(t, func() {
		var err error
		if l.kernel, err = nftables.Open(); err != nil {
			t.Error(err)
		}
		// Services' addresses need a route before rules see the packets.
		if err := netlink.RouteAdd(&netlink.Route{Dst: cidr("0.0.0.0/0"), Gw: net.IPv4(192, 168, 0, 3)}); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { l.kernel.Close() })
	l.backend = NFTables(testConfig, l.kernel)
	l.echo(l.pod1, "pod1")
	l.echo(l.pod2, "pod2")
	return l
}

func cidr(s string) *net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	n.IP = ip
	return n
}

// wire joins a namespace to the node by a veth pair, with a default route to
// the node in it.
func (l *lab) wire(ns *netnstest.NS, here, there string) {
	l.t.Helper()
	name := "v" + strings.NewReplacer(".", "", "/32", "").Replace(there)
	name = name[:min(len(name), 15)]
	l.node.Do(l.t, func() {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}
		check(l.t, netlink.LinkAdd(veth))
		link, err := netlink.LinkByName(name)
		check(l.t, err)
		check(l.t, netlink.AddrAdd(link, &netlink.Addr{IPNet: cidr(here)}))
		check(l.t, netlink.LinkSetUp(link))
		check(l.t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: cidr(there), Scope: netlink.SCOPE_LINK}))
	})
	ns.Do(l.t, func() {
		link, err := netlink.LinkByName("eth0")
		check(l.t, err)
		check(l.t, netlink.AddrAdd(link, &netlink.Addr{IPNet: cidr(there)}))
		check(l.t, netlink.LinkSetUp(link))
		gw := cidr(here)
		check(l.t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: gw, Scope: netlink.SCOPE_LINK}))
		check(l.t, netlink.RouteAdd(&netlink.Route{Dst: cidr("0.0.0.0/0"), Gw: gw.IP}))
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// echo answers every connection, and every datagram, on 8080 of the namespace
// with the name given and the address it came from.
func (l *lab) echo(ns *netnstest.NS, name string) {
	var tcp net.Listener
	var udp net.PacketConn
	ns.Do(l.t, func() {
		var err error
		tcp, err = net.Listen("tcp4", ":8080")
		check(l.t, err)
		udp, err = net.ListenPacket("udp4", ":8080")
		check(l.t, err)
	})
	l.t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s saw %s\n", name, host)
			c.Close()
		}
	}()
	go func() {
		var b [64]byte
		for {
			_, from, err := udp.ReadFrom(b[:])
			if err != nil {
				return
			}
			udp.WriteTo([]byte(name+"\n"), from)
		}
	}()
}

// connect returns what answers at an address, as seen from a namespace.
func (l *lab) connect(ns *netnstest.NS, addr string) (answer string, err error) {
	ns.Do(l.t, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp4", addr, 2*time.Second); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		answer, err = bufio.NewReader(c).ReadString('\n')
		answer = strings.TrimSpace(answer)
	})
	return answer, err
}

func (l *lab) want(ns *netnstest.NS, addr, answer string) {
	l.t.Helper()
	if got, err := l.connect(ns, addr); err != nil || got != answer {
		l.t.Errorf("%s answered %q, error %v, want %q", addr, got, err, answer)
	}
}

func (l *lab) refused(ns *netnstest.NS, addr string) {
	l.t.Helper()
	if got, err := l.connect(ns, addr); !errors.Is(err, syscall.ECONNREFUSED) {
		l.t.Errorf("%s answered %q, error %v, want it refused", addr, got, err)
	}
}

func (l *lab) set(full bool, svc *corev1.Service, entries ...string) Update {
	l.t.Helper()
	k := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	delete(l.all, k)
	for k, p := range portsOf(testNode, svc, slice(svc, 8080, entries...)) {
		l.all[k] = p
	}
	u := Update{Node: testNode, All: l.all, Changed: []Key{k}, Full: full}
	check(l.t, l.backend.Sync(context.Background(), u))
	return u
}

func TestPackets(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.ExternalIPs = []string{"1.2.3.4"}
	})
	l.set(true, svc, "10.244.0.5 local")
	l.want(l.pod2, "10.96.0.1:80", "pod1 saw 10.244.0.6") // no translation of the source between pods
	l.want(l.pod1, "10.96.0.1:80", "pod1 saw 10.244.0.1") // to itself: hairpin
	l.want(l.node, "10.96.0.1:80", "pod1 saw 10.244.0.1") // from the node
	l.want(l.peer, "192.168.0.2:30080", "pod1 saw 10.244.0.1")
	l.want(l.node, "192.168.0.2:30080", "pod1 saw 10.244.0.1")
	l.want(l.peer, "1.2.3.4:80", "pod1 saw 10.244.0.1")
	l.refused(l.pod2, "10.96.0.1:81") // no such port
	l.refused(l.node, "10.96.0.1:81")

	l.set(false, svc, "10.244.0.5 local", "10.244.0.6 local")
	seen := map[string]bool{}
	for range 64 {
		got, err := l.connect(l.node, "10.96.0.1:80")
		check(t, err)
		seen[got] = true
	}
	if len(seen) != 2 {
		t.Errorf("64 connections to two endpoints reached %v", seen)
	}

	l.set(false, svc, "10.244.0.6 local")
	for range 16 {
		l.want(l.pod1, "10.96.0.1:80", "pod2 saw 10.244.0.5")
	}

	l.set(false, svc, "10.244.0.6 local unready")
	l.refused(l.pod1, "10.96.0.1:80")
	l.refused(l.node, "10.96.0.1:80")
	l.refused(l.peer, "192.168.0.2:30080")
	l.refused(l.peer, "1.2.3.4:80")

	l.set(false, svc, "10.244.0.6 local draining")
	l.want(l.pod1, "10.96.0.1:80", "pod2 saw 10.244.0.5")
}

func TestPacketsOfLocalPolicyKeepTheirSource(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "5.6.7.8"}}
		s.Spec.LoadBalancerSourceRanges = []string{"192.168.0.3/32"}
	})
	l.set(true, svc, "10.244.0.5 local", "10.244.0.6")
	l.want(l.peer, "192.168.0.2:30080", "pod1 saw 192.168.0.3")
	l.want(l.peer, "5.6.7.8:80", "pod1 saw 192.168.0.3")
	svc.Spec.LoadBalancerSourceRanges = []string{"192.168.0.4/32"}
	l.set(false, svc, "10.244.0.5 local", "10.244.0.6")
	l.want(l.peer, "192.168.0.2:30080", "pod1 saw 192.168.0.3")
	if got, err := l.connect(l.peer, "5.6.7.8:80"); err == nil {
		t.Errorf("a source outside the ranges got %q", got)
	}
}

func TestPacketsOfOneClientStayTogether(t *testing.T) {
	l := newLab(t)
	svc := service("web", "10.96.0.1", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	l.set(true, svc, "10.244.0.5 local", "10.244.0.6 local")
	first, err := l.connect(l.peer, "10.96.0.1:80")
	check(t, err)
	for range 32 {
		l.want(l.peer, "10.96.0.1:80", first)
	}
	// A restart forgets nobody.
	l.backend = NFTables(testConfig, l.kernel)
	l.set(true, svc, "10.244.0.5 local", "10.244.0.6 local")
	for range 16 {
		l.want(l.peer, "10.96.0.1:80", first)
	}
	// When the endpoint goes, the client moves, and stays again.
	left := "10.244.0.6 local"
	if strings.HasPrefix(first, "pod2") {
		left = "10.244.0.5 local"
	}
	l.set(false, svc, left)
	second, err := l.connect(l.peer, "10.96.0.1:80")
	check(t, err)
	if second == first {
		t.Errorf("still answered by %s", first)
	}
	l.set(false, svc, "10.244.0.5 local", "10.244.0.6 local")
	for range 16 {
		l.want(l.peer, "10.96.0.1:80", second)
	}
}

func TestDatagramsLeaveAnEndpointThatIsGone(t *testing.T) {
	l := newLab(t)
	var ct *KernelConntrack
	l.node.Do(t, func() {
		var err error
		ct, err = OpenConntrack()
		check(t, err)
	})
	defer ct.Close()
	svc := service("dns", "10.96.0.10", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })
	var c net.Conn
	l.pod2.Do(t, func() {
		var err error
		c, err = net.Dial("udp4", "10.96.0.10:80")
		check(t, err)
	})
	defer c.Close()
	ask := func() string {
		var b [64]byte
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("?")); err != nil {
			return err.Error()
		}
		n, err := c.Read(b[:])
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b[:n]))
	}
	l.set(true, svc, "10.244.0.5 local")
	if got := ask(); got != "pod1" {
		t.Errorf("got %q, want pod1", got)
	}
	u := l.set(false, svc, "10.244.0.6 local")
	if n, err := ct.Forget(context.Background(), staleFlows(&u)); n != 1 || err != nil {
		t.Errorf("forgot %d flows, error %v, want 1", n, err)
	}
	if got := ask(); got != "pod2" {
		t.Errorf("got %q, want pod2", got)
	}
	if n, err := ct.Forget(context.Background(), staleFlows(&u)); n != 0 || err != nil {
		t.Errorf("forgot %d flows that are fine, error %v", n, err)
	}
}

// I32: what is connected stays so, whatever becomes of the rules.
func TestConnectionsOutliveRestarts(t *testing.T) {
	l := newLab(t)
	talk := make(chan net.Conn, 1)
	var listener net.Listener
	l.pod1.Do(t, func() {
		var err error
		listener, err = net.Listen("tcp4", ":9090")
		check(t, err)
	})
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			talk <- c
		}
	}()
	svc := service("web", "10.96.0.1")
	ctx := context.Background()
	sync := func(b Backend, full bool, entries ...string) {
		t.Helper()
		all := portsOf(testNode, svc, slice(svc, 9090, entries...))
		check(t, b.Sync(ctx, Update{Node: testNode, All: all, Changed: []Key{{Namespace: "ns1", Name: "web"}}, Full: full}))
	}
	sync(l.backend, true, "10.244.0.5")
	var client net.Conn
	l.pod2.Do(t, func() {
		var err error
		client, err = net.DialTimeout("tcp4", "10.96.0.1:80", 2*time.Second)
		check(t, err)
	})
	defer client.Close()
	server := <-talk
	defer server.Close()
	echo := func(when string) {
		t.Helper()
		var b [1]byte
		client.SetDeadline(time.Now().Add(2 * time.Second))
		server.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := client.Write([]byte("x")); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if _, err := server.Read(b[:]); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	echo("at first")
	sync(NFTables(testConfig, l.kernel), true, "10.244.0.5")
	echo("after a restart")
	sync(l.backend, false, "10.244.0.6")
	echo("after the endpoint left the Service")
	sync(l.backend, false, "10.244.0.6 unready")
	echo("with no endpoint left")
	check(t, l.kernel.Apply(ctx, nftables.Create(wholeRuleset(testNode, nftables.IPv4))))
	echo("with the table made anew")
}

func TestEveryRulesetHoldsInTheKernelAndGoes(t *testing.T) {
	ns := netnstest.New(t)
	ctx := context.Background()
	ns.Do(t, func() {
		k, err := nftables.Open()
		check(t, err)
		defer k.Close()
		b := NFTables(testConfig, k)
		for name, objects := range rulesets() {
			if err := b.Sync(ctx, Update{Node: testNode, All: portsOf(testNode, objects...), Full: true}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
				if n, err := nftables.Sync(ctx, k, wholeRuleset(testNode, f, objects...)); n != 0 || err != nil {
					t.Errorf("%s: doing it again made %d changes, error %v", name, n, err)
				}
			}
		}
		check(t, b.Cleanup(ctx))
		for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
			if got, err := k.Read(ctx, f, testConfig.Table); err != nil || got.Name != "" {
				t.Errorf("cleanup left a table: %v, error %v", got, err)
			}
		}
	})
}
