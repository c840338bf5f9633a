package overlay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/cni"
	"skiff.dev/skiff/internal/netlink/netnstest"
	"skiff.dev/skiff/internal/nftables"
)

var update = flag.Bool("update", false, "write golden files")

func node(i int) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i)},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:244:0:%d::/64", i)}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: fmt.Sprintf("node%d", i)},
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.0.%d", i)},
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("fd00::%d", i)},
		}},
	}
}

func peers(nodes ...*corev1.Node) (out []Peer) {
	for _, n := range nodes {
		out = append(out, PeerOf(n))
	}
	return out
}

func TestDesiredGolden(t *testing.T) {
	for _, mode := range []Mode{HostGW, VXLAN} {
		c := Default()
		c.Mode = mode
		unready := node(4)
		unready.Spec.PodCIDRs = nil
		s, err := Desired(c, "node1", peers(node(1), node(2), node(3), unready))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", string(mode)+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(s.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), s.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
	}
}

func TestDesiredSaysWhatIsMissing(t *testing.T) {
	only4 := node(2)
	only4.Status.Addresses = only4.Status.Addresses[:2]
	c := Default()
	c.Mode = HostGW
	s, err := Desired(c, "node1", peers(node(1), only4, node(3)))
	if err == nil || !strings.Contains(err.Error(), "node2") {
		t.Errorf("error %v, want one that names node2", err)
	}
	if len(s.Routes) != 3 {
		t.Errorf("%d routes, want the 3 that can be had", len(s.Routes))
	}
	if _, err := Desired(c, "node9", peers(node(1))); err == nil {
		t.Error("a node that does not exist yet got a state")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prefix(s string) *net.IPNet { return ipNet(netip.MustParsePrefix(s)) }

// site is some nodes on one link, each with a pod.
type site struct {
	nodes, pods []*netnstest.NS
	kernels     []*Kernel
}

func newSite(t *testing.T, n int) *site {
	s := &site{}
	sw := netnstest.New(t)
	sw.Do(t, func() {
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}))
		br, err := netlink.LinkByName("switch")
		must(t, err)
		must(t, netlink.LinkSetUp(br))
	})
	for i := 1; i <= n; i++ {
		ns, pod := netnstest.New(t), netnstest.New(t)
		sw.Do(t, func() {
			br, err := netlink.LinkByName("switch")
			must(t, err)
			veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("port", i), MasterIndex: br.Attrs().Index, Flags: net.FlagUp},
				PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}
			must(t, netlink.LinkAdd(veth))
		})
		plugin := &cni.Network{HostPortTable: "t", StateDir: t.TempDir(), MTU: 1450,
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", i))}}
		ns.Do(t, func() {
			link, err := netlink.LinkByName("eth0")
			must(t, err)
			// A link-local address that is still being checked asks nobody.
			must(t, os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0))
			must(t, netlink.LinkSetUp(link))
			for _, a := range []string{fmt.Sprintf("192.168.0.%d/24", i), fmt.Sprintf("fd00::%d/64", i)} {
				must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: prefix(a), Flags: 0x02})) // IFA_F_NODAD
			}
			_, err = plugin.Add("c0", pod.Path(), "eth0")
			must(t, err)
			k, err := Open()
			must(t, err)
			s.kernels = append(s.kernels, k)
		})
		s.nodes, s.pods = append(s.nodes, ns), append(s.pods, pod)
		serve(t, pod)
		serve(t, ns)
	}
	t.Cleanup(func() {
		for _, k := range s.kernels {
			k.Close()
		}
	})
	return s
}

func serve(t *testing.T, ns *netnstest.NS) {
	var l net.Listener
	ns.Do(t, func() {
		var err error
		l, err = net.Listen("tcp", ":80")
		must(t, err)
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintln(c, host)
			// As much as does not fit one packet of the outer link.
			c.Write(make([]byte, 64<<10))
			c.Close()
		}
	}()
}

func ask(t *testing.T, ns *netnstest.NS, addr string) (answer string) {
	ns.Do(t, func() {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			answer = err.Error()
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(c)
		if answer, err = r.ReadString('\n'); err != nil {
			answer = err.Error()
		}
		if n, err := r.Discard(64 << 10); err != nil {
			answer = fmt.Sprintf("%d bytes, %v", n, err)
		}
	})
	return strings.TrimSpace(answer)
}

func (s *site) apply(t *testing.T, c Config, nodes ...*corev1.Node) {
	t.Helper()
	for i, k := range s.kernels {
		state, err := Desired(c, fmt.Sprint("node", i+1), peers(nodes...))
		must(t, err)
		for range 2 { // the second changes nothing
			must(t, k.Apply(context.Background(), c, state))
		}
	}
}

func TestPodsOfDifferentNodesReachEachOther(t *testing.T) {
	for _, mode := range []Mode{HostGW, VXLAN} {
		t.Run(string(mode), func(t *testing.T) {
			s := newSite(t, 3)
			c := Default()
			c.Mode = mode
			s.apply(t, c, node(1), node(2), node(3))
			nodeSees := map[Mode]string{HostGW: "10.244.1.2", VXLAN: "192.168.0.1"}[mode]
			for _, test := range []struct {
				from     *netnstest.NS
				to, want string
			}{
				{s.pods[0], "10.244.2.2:80", "10.244.1.2"}, // no translation between pods
				{s.pods[0], "[fd00:244:0:2::2]:80", "fd00:244:0:1::2"},
				{s.pods[2], "10.244.2.2:80", "10.244.3.2"},
				{s.pods[1], "10.244.3.2:80", "10.244.2.2"},
				{s.pods[0], "192.168.0.2:80", nodeSees},
				{s.pods[0], "192.168.0.1:80", "10.244.1.2"},
			} {
				if got := ask(t, test.from, test.to); got != test.want {
					t.Errorf("%s saw %q, want %q", test.to, got, test.want)
				}
			}
			if got := ask(t, s.nodes[0], "10.244.2.2:80"); net.ParseIP(got) == nil {
				t.Errorf("from node to pod: %q", got)
			}
			// A node that goes takes its routes along; one that comes back has them.
			s.kernels[2].Cleanup(context.Background(), c)
			s.kernels = s.kernels[:2]
			s.apply(t, c, node(1), node(2))
			if got := ask(t, s.pods[0], "10.244.3.2:80"); net.ParseIP(got) != nil {
				t.Errorf("a pod of a node that is gone saw %q", got)
			}
			if got := ask(t, s.pods[0], "10.244.2.2:80"); got != "10.244.1.2" {
				t.Errorf("with a node less: %q", got)
			}
			// Changing the mode on a running cluster.
			other := c
			other.Mode = map[Mode]Mode{HostGW: VXLAN, VXLAN: HostGW}[mode]
			s.apply(t, other, node(1), node(2))
			if got := ask(t, s.pods[0], "10.244.2.2:80"); got != "10.244.1.2" {
				t.Errorf("after the change of mode: %q", got)
			}
			s.leavesNothing(t, other)
		})
	}
}

func (s *site) leavesNothing(t *testing.T, c Config) {
	must(t, s.kernels[0].Cleanup(context.Background(), c))
	s.nodes[0].Do(t, func() {
		if _, err := netlink.LinkByName(c.Device); !errors.As(err, &netlink.LinkNotFoundError{}) {
			t.Errorf("the device is still there: %v", err)
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil || len(routes) > 0 {
			t.Errorf("routes left: %v, error %v", routes, err)
		}
		k, err := nftables.Open()
		must(t, err)
		defer k.Close()
		for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
			if left, err := k.Read(context.Background(), f, c.MasqueradeTable); err != nil || left.Name != "" {
				t.Errorf("table left: %s, error %v", left, err)
			}
		}
	})
}

func TestANodeThatMoved(t *testing.T) {
	s := newSite(t, 2)
	c := Default()
	s.apply(t, c, node(1), node(2))
	moved := node(2)
	moved.Status.Addresses[1].Address = "192.168.0.22"
	s.nodes[1].Do(t, func() {
		link, err := netlink.LinkByName("eth0")
		must(t, err)
		must(t, netlink.AddrDel(link, &netlink.Addr{IPNet: prefix("192.168.0.2/24")}))
		must(t, netlink.AddrReplace(link, &netlink.Addr{IPNet: prefix("192.168.0.22/24")}))
	})
	s.apply(t, c, node(1), moved)
	if got := ask(t, s.pods[0], "10.244.2.2:80"); got != "10.244.1.2" {
		t.Errorf("got %q", got)
	}
	mtu, err := s.kernels[0].UnderlayMTU(netip.MustParseAddr("192.168.0.1"))
	if err != nil || c.MTU(mtu, netip.MustParseAddr("192.168.0.1")) != 1450 {
		t.Errorf("MTU %d, error %v", mtu, err)
	}
}

// fakeSource is a Source in memory.
type fakeSource struct {
	nodes   []*corev1.Node
	changed func()
}

func (f *fakeSource) Nodes() []*corev1.Node { return f.nodes }

func (f *fakeSource) Follow(ctx context.Context, changed func()) error {
	f.changed = changed
	changed()
	<-ctx.Done()
	return ctx.Err()
}

// recorder is an Applier that keeps what it was given.
type recorder struct {
	states []State
	refuse int
}

func (r *recorder) Apply(_ context.Context, _ Config, s State) error {
	r.states = append(r.states, s)
	if r.refuse > 0 {
		r.refuse--
		return errors.New("no")
	}
	return nil
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		bare := node(1)
		bare.Spec.PodCIDRs = nil
		src, k, links := &fakeSource{nodes: []*corev1.Node{bare}}, &recorder{refuse: 2}, make(chan struct{})
		done := make(chan error)
		var told bytes.Buffer
		go func() {
			done <- Run(ctx, Default(), "node1", src, k, links, slog.New(slog.NewTextHandler(&told, nil)))
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(k.states) != 0 || told.Len() > 0 {
			t.Errorf("applied %d states before the node had pod CIDRs, and told: %s", len(k.states), told.String())
		}
		src.nodes = []*corev1.Node{node(1), node(2)}
		src.changed()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(k.states) != 3 {
			t.Errorf("applied %d times, want 3: two were refused", len(k.states))
		}
		if n := strings.Count(told.String(), "Not all nodes can be reached"); n != 2 {
			t.Errorf("two failures are told %d times: %s", n, told.String())
		}
		links <- struct{}{}
		synctest.Wait()
		if len(k.states) != 4 {
			t.Errorf("applied %d times, want 4 after a link changed", len(k.states))
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// patience outlasts the second after which TCP sends a first packet again: on a
// busy machine one may be lost while links come up.
const patience = 5 * time.Second
