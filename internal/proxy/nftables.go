package proxy

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"skiff.dev/skiff/internal/nftables"
)

// NFTables returns the backend of the nftables mode (KEP-3866) over k.
func NFTables(cfg NFTConfig, k nftables.Kernel) Backend {
	b := &nftBackend{cfg: cfg, kernel: k}
	b.reset()
	return b
}

type nftBackend struct {
	cfg      NFTConfig
	kernel   nftables.Kernel
	families map[nftables.Family]*familyRules
}

func (b *nftBackend) reset() {
	b.families = map[nftables.Family]*familyRules{}
	for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
		b.families[f] = newFamilyRules(f)
	}
}

// Sync implements Backend. Each family is a transaction of its own.
func (b *nftBackend) Sync(ctx context.Context, u Update) error {
	changed := u.Changed
	if u.Full {
		// Start over: what failed may have failed half-way between the families.
		b.reset()
		changed = nil
		for k := range u.All {
			changed = append(changed, k)
		}
	}
	rules := &nft{NFTConfig: b.cfg, node: u.Node}
	for f, fr := range b.families {
		from, to := fr.update(rules, changed, u.All)
		if u.Full {
			if _, err := nftables.Sync(ctx, b.kernel, to); err != nil {
				return fmt.Errorf("syncing all %s service rules: %w", f, err)
			}
			continue
		}
		if err := b.kernel.Apply(ctx, nftables.Diff(from, to)); err != nil {
			return fmt.Errorf("syncing %s rules of %d services: %w", f, len(changed), err)
		}
	}
	return nil
}

// Cleanup implements Backend.
func (b *nftBackend) Cleanup(ctx context.Context) error {
	for f := range b.families {
		if err := b.kernel.Apply(ctx, nftables.Delete(f, b.cfg.Table)); err != nil {
			return fmt.Errorf("deleting %s service rules: %w", f, err)
		}
	}
	b.reset()
	return nil
}

// familyRules is one family's ruleset, as the parts that Services have in it.
type familyRules struct {
	family nftables.Family
	base   nftables.Table
	parts  map[Key]nftables.Table
	ports  map[Key][]Port
	// claims has who would like an address. The first is who gets it.
	claims map[claim][]*Port
}

func newFamilyRules(f nftables.Family) *familyRules {
	return &familyRules{family: f, parts: map[Key]nftables.Table{}, ports: map[Key][]Port{}, claims: map[claim][]*Port{}}
}

// update takes in the ports of the Services named and returns the part of the
// ruleset that this touches, as it was and as it is to be.
func (f *familyRules) update(rules *nft, changed []Key, all map[Key][]Port) (from, to nftables.Table) {
	dirty := map[Key]bool{}
	for _, k := range changed {
		dirty[k] = true
		for i := range f.ports[k] {
			f.unclaim(&f.ports[k][i], dirty)
		}
		delete(f.ports, k)
		for _, p := range all[k] {
			if p.Family == f.family {
				f.ports[k] = append(f.ports[k], p)
			}
		}
		for i := range f.ports[k] {
			f.claim(&f.ports[k][i], dirty)
		}
	}
	heads := rules.table(f.family)
	heads.Sets = rules.sets(f.family)
	base := rules.baseRules(f.family)
	was, is := []nftables.Table{f.base}, []nftables.Table{base}
	if f.base.Name != "" {
		was = []nftables.Table{heads, f.base}
	}
	f.base = base
	for k := range dirty {
		part := f.part(rules, k)
		was, is = append(was, f.parts[k]), append(is, part)
		if len(part.Chains) == 0 && len(part.Sets) == 0 {
			delete(f.parts, k)
		} else {
			f.parts[k] = part
		}
	}
	return nftables.Merge(was...), nftables.Merge(is...)
}

// part returns the rules of a Service.
func (f *familyRules) part(rules *nft, k Key) nftables.Table {
	parts := []nftables.Table{rules.table(f.family)}
	for i := range f.ports[k] {
		p := &f.ports[k][i]
		parts = append(parts, rules.rulesOf(p, func(c claim) bool { return f.claims[c][0] == p }))
	}
	return nftables.Merge(parts...)
}

// claim enters a port in the lists of what it would like to have, and marks
// those dirty who lose something to it.
func (f *familyRules) claim(p *Port, dirty map[Key]bool) {
	for _, c := range claims(p) {
		list := f.claims[c]
		i, _ := slices.BinarySearchFunc(list, p, byAge)
		if i == 0 && len(list) > 0 {
			dirty[list[0].NamespacedName] = true
		}
		f.claims[c] = slices.Insert(list, i, p)
	}
}

// unclaim takes a port out again, and marks those dirty who gain something.
func (f *familyRules) unclaim(p *Port, dirty map[Key]bool) {
	for _, c := range claims(p) {
		list := slices.DeleteFunc(f.claims[c], func(o *Port) bool { return o == p })
		if len(list) == 0 {
			delete(f.claims, c)
			continue
		}
		dirty[list[0].NamespacedName] = true
		f.claims[c] = list
	}
}

// byAge orders ports by when their Services were created, then by name.
func byAge(a, b *Port) int {
	return cmp.Or(a.Created.Compare(b.Created),
		cmp.Compare(a.PortName.String(), b.PortName.String()))
}
