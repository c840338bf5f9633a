package nftables

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Verdict ends a rule, and is what verdict maps hold. The zero Verdict is none.
type Verdict struct {
	kind  verdictKind
	Chain string
}

type verdictKind uint8

const (
	verdictJump verdictKind = iota + 1
	verdictGoto
	verdictReturn
	verdictDrop
	verdictAccept
)

// Jump goes on in another chain and comes back when that one ends.
func Jump(chain string) Verdict { return Verdict{verdictJump, chain} }

// Goto goes on in another chain and does not come back.
func Goto(chain string) Verdict { return Verdict{verdictGoto, chain} }

// Return goes back to the chain this one was jumped to from.
func Return() Verdict { return Verdict{kind: verdictReturn} }

// Drop throws the packet away without a word to the sender.
func Drop() Verdict { return Verdict{kind: verdictDrop} }

// Accept ends this base chain for the packet.
func Accept() Verdict { return Verdict{kind: verdictAccept} }

func (v Verdict) String() string {
	s := [...]string{"", "jump", "goto", "return", "drop", "accept"}[v.kind]
	if v.Chain != "" {
		s += " " + v.Chain
	}
	return s
}

func (v Verdict) text(Family) string { return v.String() }

func (v Verdict) refs(_ Family, r *references) {
	if v.Chain != "" {
		r.chain(v.Chain)
	}
}

func (v Verdict) lower(l *lowering) { l.add(&expr.Verdict{Kind: v.code(), Chain: v.Chain}) }

func (v Verdict) code() expr.VerdictKind {
	return [...]expr.VerdictKind{0, expr.VerdictJump, expr.VerdictGoto, expr.VerdictReturn, expr.VerdictDrop, expr.VerdictAccept}[v.kind]
}

func verdictOf(code int32, chain string) Verdict {
	for k := verdictJump; k <= verdictAccept; k++ {
		if (Verdict{kind: k}).code() == expr.VerdictKind(code) {
			return Verdict{k, chain}
		}
	}
	return Verdict{}
}

// Balance goes to one of the chains, each as likely as the other.
func Balance(chains ...string) Expr { return balance(chains) }

type balance []string

func (b balance) text(Family) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = fmt.Sprintf("%d : goto %s", i, c)
	}
	return fmt.Sprintf("numgen random mod %d vmap { %s }", len(b), strings.Join(parts, ", "))
}

func (b balance) refs(_ Family, r *references) {
	for _, c := range b {
		r.chain(c)
	}
}

func (b balance) lower(l *lowering) {
	elements := make([]Element, len(b))
	for i, c := range b {
		elements[i] = Element{Key: Key(host32(uint32(i))), Verdict: Goto(c)}
	}
	id := l.anonymous(elements)
	l.add(&expr.Numgen{Register: firstRegister, Modulus: uint32(len(b)), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: firstRegister, SetName: "__map%d", SetID: id, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// Reject throws the packet away and tells the sender that the port is
// unreachable, so that a connect fails at once. Not allowed at Prerouting.
func Reject() Expr { return reject{} }

type reject struct{}

func (reject) text(Family) string       { return "reject" }
func (reject) refs(Family, *references) {}

func (reject) lower(l *lowering) {
	code := uint8(3) // ICMP port unreachable
	if l.family == IPv6 {
		code = 4 // ICMPv6 port unreachable
	}
	l.add(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code})
}

// DNAT sends the connection to another address and port. The rule must have
// matched on L4Proto before.
func DNAT(to netip.AddrPort) Expr { return dnat(to) }

type dnat netip.AddrPort

func (d dnat) text(Family) string { return "dnat to " + netip.AddrPort(d).String() }

func (d dnat) refs(f Family, r *references) {
	r.key(Key(netip.AddrPort(d).Addr().AsSlice()), []Type{f.Address()})
}

func (d dnat) lower(l *lowering) {
	to := netip.AddrPort(d)
	addr := to.Addr().AsSlice()
	portReg := firstRegister + uint32(len(addr)/4)
	l.add(&expr.Immediate{Register: firstRegister, Data: addr},
		&expr.Immediate{Register: portReg, Data: []byte{byte(to.Port() >> 8), byte(to.Port())}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(l.family), RegAddrMin: firstRegister, RegProtoMin: portReg, Specified: true})
}

// ID names a list of choices in a map for DNATByMap. It is wide enough for a
// cryptographic hash that nobody can make two names share.
type ID [4]uint32

// DNATByMap sends the connection to one of n addresses and ports, each as
// likely as the other: those the map has under Choice(id, 0) to
// Choice(id, n-1). One map serves any number of rules, where a map of each
// rule's own would make the kernel search through all of them. The rule must
// have matched on L4Proto before.
func DNATByMap(set string, id ID, n int) Expr { return dnatByMap{set, id, n} }

// ChoiceTypes returns the types of the keys of a map for DNATByMap.
func ChoiceTypes() []Type { return []Type{TypeMark, TypeMark, TypeMark, TypeMark, TypeMark} }

// AddrPortTypes returns the types of an address with a port.
func (f Family) AddrPortTypes() []Type { return []Type{f.Address(), TypePort} }

// Choice returns the key of one of the addresses to choose from under an id.
func Choice(id ID, i int) Key {
	return Key("").Mark(id[0]).Mark(id[1]).Mark(id[2]).Mark(id[3]).Mark(uint32(i))
}

type dnatByMap struct {
	set string
	id  ID
	n   int
}

func (d dnatByMap) text(f Family) string {
	return fmt.Sprintf("dnat %s to 0x%08x . 0x%08x . 0x%08x . 0x%08x . numgen random mod %d map @%s",
		f, d.id[0], d.id[1], d.id[2], d.id[3], d.n, d.set)
}

func (d dnatByMap) refs(f Family, r *references) { r.dataMap(d.set, ChoiceTypes(), f.AddrPortTypes()) }

func (d dnatByMap) lower(l *lowering) {
	for i, word := range d.id {
		l.add(&expr.Immediate{Register: firstRegister + uint32(i), Data: host32(word)})
	}
	portReg := firstRegister + uint32(l.family.Address().size()/4)
	l.add(&expr.Numgen{Register: firstRegister + uint32(len(d.id)), Modulus: uint32(d.n), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: firstRegister, SetName: d.set, IsDestRegSet: true, DestRegister: firstRegister},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(l.family), RegAddrMin: firstRegister, RegProtoMin: portReg, Specified: true})
}

// Masquerade gives the connection the address of the interface it leaves by,
// with source ports drawn at random so that two nodes' choices seldom clash.
func Masquerade() Expr { return masquerade{} }

type masquerade struct{}

func (masquerade) text(Family) string       { return "masquerade fully-random" }
func (masquerade) refs(Family, *references) {}
func (masquerade) lower(l *lowering)        { l.add(&expr.Masq{FullyRandom: true}) }
