package cni

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"skiff.dev/skiff/internal/netlink/netnstest"
	"skiff.dev/skiff/internal/nftables"
)

var update = flag.Bool("update", false, "write golden files")

// TestMain makes the test's own program serve as the plugin, and as a process
// that answers calls of it.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("CNI_COMMAND") != "":
		os.Exit(Main())
	case os.Getenv(serveEnv) != "":
		os.Exit(serveTest(os.Getenv(serveEnv)))
	}
	os.Exit(m.Run())
}

func network(t testing.TB, cidrs ...string) *Network {
	n := &Network{HostPortTable: DefaultHostPortTable, StateDir: filepath.Join(t.TempDir(), "state"), MTU: 1450}
	n.CNIVersion = Version
	for _, c := range cidrs {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(c))
	}
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers connections to a port in a namespace with the address they
// come from.
func serve(t *testing.T, ns *netnstest.NS, addr string) {
	var l net.Listener
	ns.Do(t, func() {
		var err error
		l, err = net.Listen("tcp", addr)
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
		answer, err = bufio.NewReader(c).ReadString('\n')
		if err != nil {
			answer = err.Error()
		}
	})
	return strings.TrimSpace(answer)
}

func TestPodsReachEachOther(t *testing.T) {
	node, pod1, pod2 := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	n := network(t, "10.244.1.0/24", "fd00:244:1::/64")
	node.Do(t, func() {
		for i, ns := range []*netnstest.NS{pod1, pod2} {
			r, err := n.Add(fmt.Sprint("c", i), ns.Path(), "eth0")
			must(t, err)
			if got, want := r.IPs[0].Address.String(), fmt.Sprintf("10.244.1.%d/32", i+2); got != want {
				t.Errorf("pod %d has %s, want %s", i, got, want)
			}
			must(t, n.Check(fmt.Sprint("c", i), ns.Path(), "eth0"))
		}
		if _, err := n.Add("c0", pod1.Path(), "eth0"); err == nil {
			t.Error("adding twice succeeded")
		}
		must(t, n.Check("c0", pod1.Path(), "eth0"))
	})
	serve(t, pod2, ":80")
	serve(t, node, ":80")
	for _, test := range []struct {
		from     *netnstest.NS
		to, want string
	}{
		{pod1, "10.244.1.3:80", "10.244.1.2"},
		{pod1, "[fd00:244:1::3]:80", "fd00:244:1::2"},
		{node, "10.244.1.3:80", "10.244.1.1"},
		{node, "[fd00:244:1::3]:80", "fd00:244:1::1"},
		{pod1, "10.244.1.1:80", "10.244.1.2"},
		{pod2, "[fd00:244:1::1]:80", "fd00:244:1::3"},
	} {
		if got := ask(t, test.from, test.to); got != test.want {
			t.Errorf("%s saw %q, want %q", test.to, got, test.want)
		}
	}
	// A pod knows the node and nobody else, whatever a neighbour says.
	pod1.Do(t, func() {
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_V4)
		must(t, err)
		for _, nb := range neighbours {
			if !nb.IP.Equal(net.IPv4(10, 244, 1, 1)) {
				t.Errorf("the pod knows neighbour %s", nb.IP)
			}
		}
		link, err := netlink.LinkByName("eth0")
		must(t, err)
		if got := link.Attrs().MTU; got != 1450 {
			t.Errorf("MTU %d, want 1450", got)
		}
	})
	node.Do(t, func() {
		must(t, n.Del("c0", "eth0"))
		must(t, n.Del("c0", "eth0"))
		must(t, n.GC([]types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}))
		must(t, n.Check("c1", pod2.Path(), "eth0"))
		must(t, n.GC(nil))
		links, err := netlink.LinkList()
		must(t, err)
		if len(links) != 1 { // lo
			t.Errorf("links left: %v", links)
		}
	})
	if left := files(t, n.StateDir); len(left) > 0 {
		t.Errorf("state left: %v", left)
	}
}

// files lists what the state holds besides its lock and its memory of last
// addresses.
func files(t testing.TB, dir string) []string {
	var list []string
	for _, sub := range []string{"attachments", "ips"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		must(t, err)
		for _, e := range entries {
			list = append(list, sub+"/"+e.Name())
		}
	}
	return list
}

func TestHostPorts(t *testing.T) {
	node, pod1, pod2, peer := netnstest.New(t), netnstest.New(t), netnstest.New(t), netnstest.New(t)
	n := network(t, "10.244.1.0/24")
	node.Do(t, func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.Fd())}))
		link, err := netlink.LinkByName("up0")
		must(t, err)
		must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.168.0.2/24"))}))
		must(t, netlink.LinkSetUp(link))
		n.RuntimeConfig.PortMappings = []PortMapping{
			{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
			{HostPort: 9090, ContainerPort: 80, Protocol: "TCP", HostIP: "127.0.0.1"}}
		_, err = n.Add("c0", pod1.Path(), "eth0")
		must(t, err)
		n.RuntimeConfig.PortMappings = nil
		_, err = n.Add("c1", pod2.Path(), "eth0")
		must(t, err)
	})
	peer.Do(t, func() {
		link, err := netlink.LinkByName("eth0")
		must(t, err)
		must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.168.0.3/24"))}))
		must(t, netlink.LinkSetUp(link))
		must(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("127.0.0.9/32")), Gw: net.IPv4(192, 168, 0, 2)}))
	})
	serve(t, pod1, ":80")
	serve(t, node, "127.0.0.1:7070")
	for _, test := range []struct {
		who      string
		from     *netnstest.NS
		to, want string
	}{
		{"a neighbour", peer, "192.168.0.2:8080", "192.168.0.3"},
		{"the node", node, "192.168.0.2:8080", "192.168.0.2"},
		{"the node by loopback", node, "127.0.0.1:8080", "10.244.1.1"},
		{"the node by the loopback port", node, "127.0.0.1:9090", "10.244.1.1"},
		{"another pod", pod2, "192.168.0.2:8080", "10.244.1.3"},
		{"the pod itself", pod1, "192.168.0.2:8080", "10.244.1.1"},
	} {
		if got := ask(t, test.from, test.to); got != test.want {
			t.Errorf("%s at %s is seen as %q, want %q", test.who, test.to, got, test.want)
		}
	}
	if got := ask(t, peer, "192.168.0.2:9090"); !strings.Contains(got, "refused") {
		t.Errorf("a port on loopback is open to neighbours: %q", got)
	}
	// The node's loopback stays its own, even from a pod that may change its
	// routes and whose link carries loopback addresses the other way.
	pod1.Do(t, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("127.0.0.1/8"))}))
		must(t, setSysctl("ipv4/conf/eth0/route_localnet", "1"))
		must(t, netlink.RouteAdd(&netlink.Route{Dst: host(netip.MustParseAddr("127.0.0.1")), Gw: net.IPv4(10, 244, 1, 1), Src: net.IPv4(10, 244, 1, 2)}))
	})
	if got := ask(t, pod1, "127.0.0.1:7070"); !strings.Contains(got, "timeout") {
		t.Errorf("a pod at the node's loopback got %q, want no answer", got)
	}
	node.Do(t, func() {
		must(t, n.Del("c0", "eth0"))
		k, err := nftables.Open()
		must(t, err)
		defer k.Close()
		if left, err := k.Read(context.Background(), nftables.IPv4, n.HostPortTable); err != nil || left.Name != "" {
			t.Errorf("table left: %s, error %v", left, err)
		}
	})
}

func TestHostPortsGolden(t *testing.T) {
	ip := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	all := []*attachment{
		{Container: "a", IPs: []netip.Addr{ip("10.244.1.2"), ip("fd00:244:1::2")}, Ports: []PortMapping{
			{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"},
			{HostPort: 53, ContainerPort: 53, Protocol: "udp", HostIP: "192.168.0.2"},
			{HostPort: 54, ContainerPort: 53, Protocol: "udp", HostIP: "0.0.0.0"},
			{HostPort: 0, ContainerPort: 99, Protocol: "tcp"}}},
		{Container: "b", IPs: []netip.Addr{ip("10.244.1.3")}, Ports: []PortMapping{{HostPort: 80, ContainerPort: 80, Protocol: "tcp"}}},
	}
	got := hostPorts(nftables.IPv4, DefaultHostPortTable, all).String() + hostPorts(nftables.IPv6, DefaultHostPortTable, all).String()
	if *update {
		must(t, os.WriteFile("testdata/hostports.nft", []byte(got), 0o644))
	}
	want, err := os.ReadFile("testdata/hostports.nft")
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The runtime's way to the plugin: environment, standard input, a result.
func TestProgram(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	n := network(t, "10.244.1.0/24", "fd00:244:1::/64")
	run := func(command string, extra map[string]any) ([]byte, error) {
		conf := conflist(Config{HostPortTable: n.HostPortTable, MTU: n.MTU, PodCIDRs: n.PodCIDRs, StateDir: n.StateDir})["plugins"].([]any)[0].(map[string]any)
		conf["cniVersion"], conf["name"] = Version, "skiff"
		for k, v := range extra {
			conf[k] = v
		}
		in, err := json.Marshal(conf)
		must(t, err)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=c0", "CNI_NETNS="+pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/", "CNI_NETNS_OVERRIDE=1")
		cmd.Stdin = bytes.NewReader(in)
		var out []byte
		var e error
		node.Do(t, func() { out, e = cmd.Output() })
		return out, e
	}
	out, err := run("ADD", nil)
	must(t, err)
	var r types100.Result
	must(t, json.Unmarshal(out, &r))
	if len(r.IPs) != 2 || r.CNIVersion != Version {
		t.Errorf("result %s", out)
	}
	for _, c := range []string{"CHECK", "STATUS", "VERSION", "DEL", "GC"} {
		extra := map[string]any{"prevResult": r}
		if c == "GC" {
			extra = map[string]any{"cni.dev/valid-attachments": []any{}}
		}
		if out, err := run(c, extra); err != nil {
			t.Errorf("%s: %v: %s", c, err, out)
		}
	}
	out, err = run("ADD", map[string]any{"podCIDRs": nil})
	var e types.Error
	if err == nil || json.Unmarshal(out, &e) != nil || e.Code != types.ErrInvalidNetworkConfig {
		t.Errorf("a bad configuration: error %v, answer %s", err, out)
	}
}

// 1,000 pods come and go, the plugin dying at any point: nothing is given
// twice, and after a GC nothing is lost.
func TestAddressesSurviveKills(t *testing.T) {
	n := network(t, "10.244.1.0/26", "fd00:244:1::/64")
	r := rand.New(rand.NewPCG(3, 4))
	live := map[string][]netip.Addr{}
	for i := range 1000 {
		s, err := openState(n.StateDir)
		must(t, err)
		a := &attachment{Container: fmt.Sprint("c", i), Ifname: "eth0"}
		died := r.IntN(8) // the step before which it dies, if below 4
		for j, p := range n.PodCIDRs {
			if died == j {
				break
			}
			ip, err := s.allocate(p, a.name())
			must(t, err)
			for other, ips := range live {
				if slices.Contains(ips, ip) {
					t.Fatalf("%s is %s's and was given to %s", ip, other, a.Container)
				}
			}
			a.IPs = append(a.IPs, ip)
		}
		if died > 1 && died != 2 {
			must(t, s.write(a))
			live[a.Container] = a.IPs
		}
		if died == 3 { // in the middle of a removal
			must(t, s.release(a.name()))
			delete(live, a.Container)
		}
		s.close()
		if len(live) > 25 || i%16 == 15 {
			var valid []types.GCAttachment
			for c := range live {
				if len(valid) < 20 {
					valid = append(valid, types.GCAttachment{ContainerID: c, IfName: "eth0"})
				}
			}
			must(t, n.GC(valid))
			kept := map[string][]netip.Addr{}
			for _, v := range valid {
				kept[v.ContainerID] = live[v.ContainerID]
			}
			live = kept
			if got, want := len(files(t, n.StateDir)), 3*len(valid); got != want {
				t.Fatalf("after GC there are %d files for %d attachments", got, len(valid))
			}
		}
	}
	must(t, n.GC(nil))
	if left := files(t, n.StateDir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAllocateUntilFull(t *testing.T) {
	n := network(t, "10.244.1.0/29")
	s, err := openState(n.StateDir)
	must(t, err)
	defer s.close()
	p := n.PodCIDRs[0]
	for i := range 5 {
		if _, err := s.allocate(p, fmt.Sprint("c", i)); err != nil {
			t.Fatal(err)
		}
	}
	if ip, err := s.allocate(p, "c"); err == nil {
		t.Fatalf("a sixth address: %s", ip)
	}
	must(t, s.release("c1"))
	must(t, s.release("c3"))
	for _, want := range []string{"10.244.1.3", "10.244.1.5"} {
		if ip, err := s.allocate(p, "c"); err != nil || ip.String() != want {
			t.Errorf("got %s, error %v, want %s", ip, err, want)
		}
	}
}

func TestInstallAndCleanup(t *testing.T) {
	dir := t.TempDir()
	c := Config{ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), StateDir: filepath.Join(dir, "state"),
		Plugin: os.Args[0], HostPortTable: "sktest", MTU: 1450, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	node, pod := netnstest.New(t), netnstest.New(t)
	node.Do(t, func() {
		must(t, Install(c))
		must(t, Install(c))
		n := &Network{HostPortTable: c.HostPortTable, StateDir: c.StateDir, PodCIDRs: c.PodCIDRs}
		n.RuntimeConfig.PortMappings = []PortMapping{{HostPort: 80, ContainerPort: 80}}
		_, err := n.Add("c0", pod.Path(), "eth0")
		must(t, err)
		must(t, Collect(c, []string{"c0", "c9"}))
		must(t, n.Check("c0", pod.Path(), "eth0"))
		must(t, Cleanup(context.Background(), c))
		must(t, Cleanup(context.Background(), c))
		links, err := netlink.LinkList()
		must(t, err)
		if len(links) != 1 {
			t.Errorf("links left: %v", links)
		}
	})
	var left []string
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, path)
		}
		return err
	}))
	if len(left) > 0 {
		t.Errorf("files left: %v", left)
	}
}

// What the runtime waits for at each pod's start and end, with the program it
// starts (SKIFF_CNI names one built by itself; else the test's own).
func BenchmarkProgram(b *testing.B) {
	program := os.Args[0]
	if p := os.Getenv("SKIFF_CNI"); p != "" {
		program = p
	}
	node, pod := netnstest.New(b), netnstest.New(b)
	n := network(b, "10.244.1.0/24")
	conf := conflist(Config{HostPortTable: n.HostPortTable, MTU: n.MTU, PodCIDRs: n.PodCIDRs, StateDir: n.StateDir})["plugins"].([]any)[0].(map[string]any)
	conf["cniVersion"], conf["name"] = Version, "skiff"
	in, err := json.Marshal(conf)
	must(b, err)
	run := func(command string) {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=c0", "CNI_NETNS="+pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/", "CNI_NETNS_OVERRIDE=1")
		cmd.Stdin = bytes.NewReader(in)
		node.Do(b, func() {
			if out, err := cmd.Output(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		})
	}
	for _, c := range []string{"ADD", "DEL", "VERSION"} {
		b.Run(c, func(b *testing.B) {
			for b.Loop() {
				switch c {
				case "ADD":
					run(c)
					b.StopTimer()
					run("DEL")
					b.StartTimer()
				case "DEL":
					b.StopTimer()
					run("ADD")
					b.StartTimer()
					run(c)
				default:
					run(c)
				}
			}
		})
	}
	b.Run("in process", func(b *testing.B) {
		for b.Loop() {
			node.Do(b, func() {
				if _, err := n.Add("c0", pod.Path(), "eth0"); err != nil {
					b.Fatal(err)
				}
			})
			b.StopTimer()
			node.Do(b, func() {
				if err := n.Del("c0", "eth0"); err != nil && !errors.Is(err, os.ErrNotExist) {
					b.Fatal(err)
				}
			})
			b.StartTimer()
		}
	})
}

// patience outlasts the second after which TCP sends a first packet again: on a
// busy machine one may be lost while links come up.
const patience = 5 * time.Second
