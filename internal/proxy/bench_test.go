package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/netlink/netnstest"
	"skiff.dev/skiff/internal/nftables"
)

// many returns ports of n Services of two endpoints each.
func many(n int) map[Key][]Port {
	all := map[Key][]Port{}
	for i := range n {
		svc := service(fmt.Sprintf("svc%d", i), fmt.Sprintf("10.96.%d.%d", i/250, i%250+1), func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeNodePort
			s.Spec.Ports[0].NodePort = int32(30000 + i)
		})
		for k, p := range portsOf(testNode, svc, slice(svc, 8080,
			fmt.Sprintf("10.244.%d.%d local", i/250, i%250+1), fmt.Sprintf("10.245.%d.%d", i/250, i%250+1))) {
			all[k] = p
		}
	}
	return all
}

func keysOf(all map[Key][]Port) []Key {
	var keys []Key
	for k := range all {
		keys = append(keys, k)
	}
	return keys
}

// BenchmarkRuleset decides the whole ruleset of 10,000 Services.
func BenchmarkRuleset(b *testing.B) {
	all := many(10_000)
	keys := keysOf(all)
	b.ReportAllocs()
	for b.Loop() {
		newFamilyRules(nftables.IPv4).update(&nft{testConfig, testNode}, keys, all)
	}
}

// BenchmarkSync brings 10,000 Services into the kernel: from nothing, after a
// restart with nothing changed, and with one endpoint changed.
func BenchmarkSync(b *testing.B) {
	ns := netnstest.New(b)
	var k *nftables.NetNS
	ns.Do(b, func() {
		var err error
		if k, err = nftables.Open(); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() { k.Close() })
	ctx := context.Background()
	all := many(10_000)
	sync := func(b *testing.B, backend Backend, u Update) {
		u.Node, u.All = testNode, all
		if err := backend.Sync(ctx, u); err != nil {
			b.Fatal(err)
		}
	}
	backend := NFTables(testConfig, k)
	b.Run("fresh", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if err := backend.Cleanup(ctx); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			sync(b, backend, Update{Full: true})
		}
	})
	b.Run("restart", func(b *testing.B) {
		for b.Loop() {
			sync(b, NFTables(testConfig, k), Update{Full: true})
		}
	})
	b.Run("one", func(b *testing.B) {
		sync(b, backend, Update{Full: true})
		key := Key{Namespace: "ns1", Name: "svc77"}
		was := all[key]
		i := 0
		for b.Loop() {
			i++
			p := was[0]
			p.Cluster = append([]netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("10.244.0.250"), uint16(i%60000+1))}, p.Cluster...)
			all[key] = []Port{p}
			sync(b, backend, Update{Changed: []Key{key}})
		}
	})
}
