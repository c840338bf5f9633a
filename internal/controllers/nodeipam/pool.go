package nodeipam

import (
	"fmt"
	"math/big"
	"net/netip"
)

// maxRanges bounds how many ranges a pool is cut into.
const maxRanges = 1 << 16

// pool gives out ranges of one size from one prefix. A range that has come
// free is given out again only after all others, so that what still refers to
// its former node has time to forget.
type pool struct {
	prefix netip.Prefix
	bits   int
	count  int
	next   int
	takers map[int]map[string]bool // who has a range; more than one is somebody's mistake
	byNode map[string]int
}

func newPool(prefix netip.Prefix, bits int, reserved []netip.Prefix) (*pool, error) {
	if bits < prefix.Bits() || bits > prefix.Addr().BitLen() {
		return nil, fmt.Errorf("the cluster's pod range %s cannot be cut into ranges of /%d", prefix, bits)
	}
	if bits-prefix.Bits() > 16 {
		return nil, fmt.Errorf("the cluster's pod range %s cut into ranges of /%d makes more than %d", prefix, bits, maxRanges)
	}
	p := &pool{prefix: prefix, bits: bits, count: 1 << (bits - prefix.Bits()), takers: map[int]map[string]bool{}, byNode: map[string]int{}}
	for i := range p.count {
		for _, r := range reserved {
			if p.at(i).Overlaps(r) {
				p.takers[i] = map[string]bool{"": true}
			}
		}
	}
	return p, nil
}

// at returns the i-th range.
func (p *pool) at(i int) netip.Prefix {
	n := new(big.Int).SetBytes(p.prefix.Addr().AsSlice())
	shift := uint(p.prefix.Addr().BitLen() - p.bits)
	n.Add(n, new(big.Int).Lsh(big.NewInt(int64(i)), shift))
	addr, _ := netip.AddrFromSlice(n.FillBytes(make([]byte, p.prefix.Addr().BitLen()/8)))
	return netip.PrefixFrom(addr, p.bits)
}

// take notes that node has what of r lies in the pool.
func (p *pool) take(node string, r netip.Prefix) {
	if !p.prefix.Overlaps(r) {
		return
	}
	first, last := 0, p.count-1
	if r.Bits() > p.prefix.Bits() {
		first = p.index(r.Masked().Addr())
		last = first
		if r.Bits() < p.bits {
			last = first + 1<<(p.bits-r.Bits()) - 1
		}
	}
	for i := first; i <= last; i++ {
		p.put(i, node)
	}
}

func (p *pool) put(i int, node string) {
	if p.takers[i] == nil {
		p.takers[i] = map[string]bool{}
	}
	p.takers[i][node] = true
	p.byNode[node] = i
}

// index returns in which range addr lies.
func (p *pool) index(addr netip.Addr) int {
	a := new(big.Int).SetBytes(addr.AsSlice())
	a.Sub(a, new(big.Int).SetBytes(p.prefix.Addr().AsSlice()))
	return int(a.Rsh(a, uint(addr.BitLen()-p.bits)).Int64())
}

// reserve returns the range of node, a new one if it has none.
func (p *pool) reserve(node string) (netip.Prefix, bool) {
	if i, ok := p.byNode[node]; ok {
		return p.at(i), true
	}
	for n := range p.count {
		i := (p.next + n) % p.count
		if len(p.takers[i]) == 0 {
			p.next = (i + 1) % p.count
			p.put(i, node)
			return p.at(i), true
		}
	}
	return netip.Prefix{}, false
}

// release frees what node has, and reports whether a range is free by that.
func (p *pool) release(node string) (freed bool) {
	if _, ok := p.byNode[node]; !ok {
		return false
	}
	delete(p.byNode, node)
	for i, takers := range p.takers { // several, if its range was larger than ours
		delete(takers, node)
		if len(takers) == 0 {
			delete(p.takers, i)
			freed = true
		}
	}
	return freed
}
