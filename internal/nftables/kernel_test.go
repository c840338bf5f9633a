package nftables

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/netlink/netnstest"
)

// sample uses every kind of expression, set and chain there is.
func sample(f Family) Table {
	ip, ap := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddrPort("10.244.0.5:8080")
	within := netip.MustParsePrefix("10.244.0.0/17")
	if f == IPv6 {
		ip, ap = netip.MustParseAddr("fd00:96::1"), netip.MustParseAddrPort("[fd00:244::5]:8080")
		within = netip.MustParsePrefix("fd00:244::/61")
	}
	a := f.Address()
	return Table{Family: f, Name: "sample", Sets: []Set{
		{Name: "services", Map: true, Key: []Type{a, TypeProto, TypePort}, Comment: "all of them", Elements: []Element{
			{Key: Key("").Addr(ip).Proto(TCP).Port(443), Verdict: Goto("web")},
			{Key: Key("").Addr(ip).Proto(UDP).Port(53), Verdict: Drop()},
		}},
		{Name: "ips", Key: []Type{a}, Elements: []Element{{Key: Key("").Addr(ip)}}},
		{Name: "ports", Key: []Type{TypePort}, Elements: []Element{{Key: Key("").Port(80)}}},
		{Name: "links", Key: []Type{TypeIface}, Elements: []Element{{Key: Key("").Iface("eth0")}}},
		{Name: "backends", Key: ChoiceTypes(), Value: f.AddrPortTypes(), Elements: []Element{
			{Key: Choice(ID{1, 2, 3, 4}, 0), Value: Key("").Addr(ap.Addr()).Port(8080)},
			{Key: Choice(ID{1, 2, 3, 4}, 1), Value: Key("").Addr(ap.Addr()).Port(8081)},
		}},
		{Name: "seen", Key: []Type{a}, Timeout: 3 * time.Hour},
	}, Chains: []Chain{
		{Name: "pre", Hook: &Hook{"nat", Prerouting, PriorityDNAT}, Rules: []Rule{
			R(In("ips", DstAddr), Dispatch("services", DstAddr, L4Proto, DstPort)).Noted("the way in"),
			R(Local(DstAddr), IsNot(DstAddr, Key("").Addr(ip)), Jump("web")),
			R(Local(SrcAddr), NotIn("ports", DstPort), In("links", InIface), Return()),
			R(Is(OutIface, Key("").Iface("skiff0")), Accept()),
		}},
		{Name: "filter", Hook: &Hook{"filter", Forward, -110}, Rules: []Rule{
			R(StateNew, StatusDNAT, Jump("no")),
		}},
		{Name: "post", Hook: &Hook{"nat", Postrouting, PrioritySNAT}, Rules: []Rule{
			R(NotMarked(0x4000), Return()), R(Marked(0x8000), Return()), R(ClearMark(0x4000)), R(Masquerade()),
		}},
		{Name: "no", Rules: []Rule{R(Reject())}},
		{Name: "mark", Rules: []Rule{R(SetMark(0x4000))}},
		{Name: "web", Rules: []Rule{
			R(NotWithin(SrcAddr, within), Jump("mark")),
			R(Within(DstAddr, netip.PrefixFrom(ip, ip.BitLen())), Jump("mark")),
			R(In("seen", SrcAddr), Goto("web-1")),
			R(Balance("web-1", "web-2")),
		}},
		{Name: "web-1", Rules: []Rule{R(Update("seen", SrcAddr)), R(Is(L4Proto, Key("").Proto(TCP)), DNAT(ap))}},
		{Name: "many", Rules: []Rule{R(Is(L4Proto, Key("").Proto(UDP)), DNATByMap("backends", ID{1, 2, 3, 4}, 2))}},
		{Name: "web-2", Rules: []Rule{R(Is(L4Proto, Key("").Proto(SCTP)), DNAT(ap))}},
	}}
}

// without returns the table less the chains, sets and elements named.
func without(t Table, names ...string) Table {
	out := Table{Family: t.Family, Name: t.Name}
	gone := func(n string) bool { return slices.Contains(names, n) }
	for _, c := range t.Chains {
		if gone(c.Name) {
			continue
		}
		rules := c.Rules
		c.Rules = nil
		for _, r := range rules {
			keep := true
			for _, w := range strings.Fields(r.text(t.Family)) {
				keep = keep && !gone(strings.TrimPrefix(w, "@")) && !gone(strings.TrimSuffix(w, ","))
			}
			if keep {
				c.Rules = append(c.Rules, r)
			}
		}
		out.Chains = append(out.Chains, c)
	}
	for _, s := range t.Sets {
		if gone(s.Name) {
			continue
		}
		elements := s.Elements
		s.Elements = nil
		for _, e := range elements {
			if !gone(e.Verdict.Chain) || e.Verdict.Chain == "" {
				s.Elements = append(s.Elements, e)
			}
		}
		out.Sets = append(out.Sets, s)
	}
	return out
}

// sums renders a table with rules as their digests, which is what all kernels
// can tell.
func sums(t Table) string {
	for i := range t.Chains {
		c := t.Chains[i]
		c.Rules = slices.Clone(c.Rules)
		for j, r := range c.Rules {
			c.Rules[j] = Rule{digest: r.sum(t.Family)}
		}
		t.Chains[i] = c
	}
	for i := range t.Sets {
		t.Sets[i].Comment = ""
	}
	return t.String()
}

// eachKernel runs the test on every implementation.
func eachKernel(t *testing.T, f func(t *testing.T, k Kernel)) {
	t.Run("fake", func(t *testing.T) { f(t, &Fake{}) })
	t.Run("kernel", func(t *testing.T) {
		var k *NetNS
		netnstest.New(t).Do(t, func() {
			var err error
			if k, err = Open(); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(func() {
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		})
		f(t, k)
	})
}

func TestKernelLeadsFromAnyTableToAnyOther(t *testing.T) {
	eachKernel(t, func(t *testing.T, k Kernel) {
		ctx := context.Background()
		for _, f := range []Family{IPv4, IPv6} {
			whole := sample(f)
			longer := sample(f)
			for i := range 1000 {
				key := Key("").Addr(longer.Sets[1].Elements[0].Key.addr(t)).Proto(TCP).Port(uint16(1000 + i))
				longer.Sets[0].Elements = append(longer.Sets[0].Elements, Element{Key: key, Verdict: Goto("web")})
			}
			other := sample(f)
			other.Sets[5].Timeout = time.Hour
			for i, want := range []Table{
				whole, whole,
				without(whole, "web-2"),
				without(whole, "seen"),
				whole,
				without(whole, "web", "services"),
				without(whole, "backends"),
				longer,
				other,
				without(whole, "filter", "no"),
				{Family: f, Name: "sample"},
				whole,
			} {
				if _, err := Sync(ctx, k, want); err != nil {
					t.Fatalf("%s step %d: %v", f, i, err)
				}
				got, err := k.Read(ctx, f, "sample")
				if err != nil {
					t.Fatalf("%s step %d: %v", f, i, err)
				}
				if diff := cmp.Diff(sums(want), sums(got)); diff != "" {
					t.Errorf("%s step %d (-want +got):\n%s", f, i, diff)
				}
				if n, err := Sync(ctx, k, want); n != 0 || err != nil {
					t.Errorf("%s step %d: doing it again made %d changes, error %v", f, i, n, err)
				}
			}
			if err := k.Apply(ctx, Delete(f, "sample")); err != nil {
				t.Fatal(err)
			}
			if got, err := k.Read(ctx, f, "sample"); err != nil || got.Name != "" {
				t.Errorf("after deletion: %v, error %v", got, err)
			}
			if err := k.Apply(ctx, Delete(f, "sample")); err != nil {
				t.Errorf("deleting what is not there: %v", err)
			}
		}
	})
}

func TestFakeRefusesWrongTypes(t *testing.T) {
	var k Fake
	if _, err := Sync(context.Background(), &k, sample(IPv6)); err != nil {
		t.Fatal(err)
	}
	v4 := netip.MustParseAddrPort("10.0.0.1:80")
	for name, rule := range map[string]Rule{
		"a key of other fields":                     R(In("ips", SrcAddr, DstPort)),
		"a map used as a set":                       R(In("services", DstAddr, L4Proto, DstPort)),
		"a set used as a map":                       R(Dispatch("ips", DstAddr)),
		"an update of a constant set":               R(Update("ips", SrcAddr)),
		"an address of the other family in NAT":     R(DNAT(v4)),
		"an address of the other family in a match": R(Within(SrcAddr, netip.MustParsePrefix("10.0.0.0/8"))),
	} {
		b := Diff(Table{}, Table{Family: IPv6, Name: "sample", Chains: []Chain{{Name: "a", Rules: []Rule{rule}}}})
		if err := k.Apply(context.Background(), b); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: got error %v, want %v", name, err, unix.EINVAL)
		}
	}
}

func (k Key) addr(t *testing.T) netip.Addr {
	a, ok := netip.AddrFromSlice([]byte(k))
	if !ok {
		t.Fatalf("%x is no address", string(k))
	}
	return a
}

func TestKernelRefuses(t *testing.T) {
	eachKernel(t, func(t *testing.T, k Kernel) {
		ctx := context.Background()
		if _, err := Sync(ctx, k, sample(IPv4)); err != nil {
			t.Fatal(err)
		}
		before, err := k.Read(ctx, IPv4, "sample")
		if err != nil {
			t.Fatal(err)
		}
		chain := func(rules ...Rule) Table {
			return Table{Family: IPv4, Name: "sample", Chains: []Chain{{Name: "a", Rules: rules}}}
		}
		for name, test := range map[string]struct {
			batch *Batch
			want  error
		}{
			"a jump to nowhere":       {Diff(Table{}, chain(R(Jump("b")))), unix.ENOENT},
			"a jump to a base chain":  {Diff(Table{}, chain(R(Jump("pre")))), unix.EOPNOTSUPP},
			"a set that is not there": {Diff(Table{}, chain(R(In("x", SrcAddr)))), unix.ENOENT},
			"a loop": {Diff(Table{}, Merge(chain(R(Jump("b"))), Table{Chains: []Chain{
				{Name: "b", Rules: []Rule{R(Jump("a"))}}, {Name: "in", Hook: &Hook{"filter", Input, 0}, Rules: []Rule{R(Jump("a"))}}}})), unix.EMLINK},
			"removing a chain not there": {Diff(chain(), Table{Family: IPv4, Name: "sample"}), unix.ENOENT},
			"removing a chain in use":    {Diff(Table{Chains: []Chain{{Name: "no"}}}, Table{Family: IPv4, Name: "sample"}), nil},
			"an element that is there":   {Diff(Table{Sets: []Set{{Name: "ips", Key: []Type{TypeIPv4}}}}, Table{Family: IPv4, Name: "sample", Sets: sample(IPv4).Sets[1:2]}), unix.EEXIST},
		} {
			err := k.Apply(ctx, test.batch)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%s: got error %v, want %v", name, err, test.want)
			}
			after, err := k.Read(ctx, IPv4, "sample")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sums(before), sums(after)); diff != "" {
				t.Errorf("%s changed something:\n%s", name, diff)
			}
		}
	})
}

// What we wrote is what nft reads.
func TestNFTReadsTheSame(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("SKIPPED: needs the nft program to compare with")
	}
	ns := netnstest.New(t)
	for _, f := range []Family{IPv4, IPv6} {
		ns.Do(t, func() {
			k, err := Open()
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if _, err := Sync(context.Background(), k, sample(f)); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(nft, "list", "table", f.String(), "sample").CombinedOutput()
			if err != nil {
				t.Fatalf("nft list: %v: %s", err, out)
			}
			for _, c := range sample(f).Chains {
				for _, r := range c.Rules {
					want := r.text(f)
					if strings.Contains(want, "map @backends") {
						continue // nft does not know the type of constants in a key
					}
					if !strings.Contains(string(out), "\t\t"+want+"\n") {
						t.Errorf("%s chain %s: nft does not show the rule\n\t%s", f, c.Name, want)
					}
				}
			}
			if t.Failed() {
				t.Logf("nft shows:\n%s", out)
			}
		})
	}
}
