package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Expr is one step of a rule: a match, a verdict or an action. It knows its
// text, what it refers to and the kernel's bytecode for it.
type Expr interface {
	text(f Family) string
	lower(l *lowering)
	refs(f Family, r *references)
}

// firstRegister is the first of the kernel's sixteen 32-bit registers.
const firstRegister = unix.NFT_REG32_00

// Field is a part of a packet, or a fact about it, that a rule can look at.
type Field uint8

// The fields rules look at.
const (
	SrcAddr Field = iota + 1
	DstAddr
	L4Proto
	DstPort
	InIface
	OutIface
)

func (fi Field) text(f Family) string {
	switch fi {
	case SrcAddr:
		return f.String() + " saddr"
	case DstAddr:
		return f.String() + " daddr"
	case L4Proto:
		return "meta l4proto"
	case DstPort:
		return "th dport"
	case InIface:
		return "iifname"
	}
	return "oifname"
}

// Type returns the type of the field in a table of family f.
func (fi Field) Type(f Family) Type {
	switch fi {
	case SrcAddr, DstAddr:
		return f.Address()
	case L4Proto:
		return TypeProto
	case DstPort:
		return TypePort
	}
	return TypeIface
}

func (fi Field) load(f Family, reg uint32) expr.Any {
	switch fi {
	case SrcAddr, DstAddr:
		p := &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
		if f == IPv6 {
			p.Offset, p.Len = 8, 16
		}
		if fi == DstAddr {
			p.Offset += p.Len
		}
		return p
	case DstPort:
		return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
	case L4Proto:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}
	case InIface:
		return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg}
	}
	return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg}
}

func fieldsText(fields []Field, f Family) string {
	parts := make([]string, len(fields))
	for i, fi := range fields {
		parts[i] = fi.text(f)
	}
	return strings.Join(parts, " . ")
}

func (l *lowering) load(fields []Field) {
	reg := uint32(firstRegister)
	for _, fi := range fields {
		l.add(fi.load(l.family, reg))
		reg += uint32(fi.Type(l.family).size() / 4)
	}
}

func typesOf(fields []Field, f Family) []Type {
	types := make([]Type, len(fields))
	for i, fi := range fields {
		types[i] = fi.Type(f)
	}
	return types
}

// Is matches packets whose field has, or with not has not, the one value of
// the key.
func Is(field Field, value Key) Expr { return compare{field: field, value: value} }

// IsNot is the opposite of Is.
func IsNot(field Field, value Key) Expr { return compare{field: field, value: value, not: true} }

type compare struct {
	field Field
	value Key
	not   bool
}

func (c compare) text(f Family) string {
	op := " "
	if c.not {
		op = " != "
	}
	return c.field.text(f) + op + c.value.text([]Type{c.field.Type(f)})
}

func (c compare) refs(f Family, r *references) { r.key(c.value, []Type{c.field.Type(f)}) }

func (c compare) lower(l *lowering) {
	// What is loaded is compared, not its padding.
	n := c.field.Type(l.family).datatype().Bytes
	l.add(c.field.load(l.family, firstRegister), &expr.Cmp{Op: op(c.not), Register: firstRegister, Data: []byte(c.value[:n])})
}

func op(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}

// Within matches packets whose address field lies in the prefix.
func Within(field Field, p netip.Prefix) Expr { return within{field: field, prefix: p.Masked()} }

// NotWithin is the opposite of Within.
func NotWithin(field Field, p netip.Prefix) Expr {
	return within{field: field, prefix: p.Masked(), not: true}
}

type within struct {
	field  Field
	prefix netip.Prefix
	not    bool
}

func (w within) text(f Family) string {
	op := " "
	if w.not {
		op = " != "
	}
	if w.prefix.IsSingleIP() {
		return w.field.text(f) + op + w.prefix.Addr().String()
	}
	return w.field.text(f) + op + w.prefix.String()
}

func (w within) refs(f Family, r *references) {
	r.key(Key(w.prefix.Addr().AsSlice()), []Type{w.field.Type(f)})
}

func (w within) lower(l *lowering) {
	addr := w.prefix.Addr().AsSlice()
	l.add(w.field.load(l.family, firstRegister))
	if !w.prefix.IsSingleIP() {
		mask := make([]byte, len(addr))
		for i := range w.prefix.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		l.add(&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister,
			Len: uint32(len(addr)), Mask: mask, Xor: make([]byte, len(addr))})
	}
	l.add(&expr.Cmp{Op: op(w.not), Register: firstRegister, Data: addr})
}

// In matches packets whose fields together are in the set.
func In(set string, fields ...Field) Expr { return lookup{set: set, fields: fields} }

// NotIn is the opposite of In.
func NotIn(set string, fields ...Field) Expr { return lookup{set: set, fields: fields, not: true} }

// Dispatch gives the verdict the map holds for the packet's fields. Without
// one the rule does not match.
func Dispatch(set string, fields ...Field) Expr {
	return lookup{set: set, fields: fields, vmap: true}
}

type lookup struct {
	set       string
	fields    []Field
	not, vmap bool
}

func (s lookup) text(f Family) string {
	op := " @"
	switch {
	case s.vmap:
		op = " vmap @"
	case s.not:
		op = " != @"
	}
	return fieldsText(s.fields, f) + op + s.set
}

func (s lookup) refs(f Family, r *references) { r.set(s.set, typesOf(s.fields, f), s.vmap) }

func (s lookup) lower(l *lowering) {
	l.load(s.fields)
	l.add(&expr.Lookup{SourceRegister: firstRegister, SetName: s.set, Invert: s.not, IsDestRegSet: s.vmap, DestRegister: unix.NFT_REG_VERDICT})
}

// Update adds the fields to a set with a timeout, or starts its time anew.
func Update(set string, fields ...Field) Expr { return update{set: set, fields: fields} }

type update struct {
	set    string
	fields []Field
}

func (u update) text(f Family) string {
	return fmt.Sprintf("update @%s { %s }", u.set, fieldsText(u.fields, f))
}

func (u update) refs(f Family, r *references) { r.dynamicSet(u.set, typesOf(u.fields, f)) }

func (u update) lower(l *lowering) {
	l.load(u.fields)
	l.add(&expr.Dynset{SrcRegKey: firstRegister, SetName: u.set, Operation: unix.NFT_DYNSET_OP_UPDATE})
}

// Local matches packets whose address field is an address of this host.
func Local(field Field) Expr { return local{field} }

type local struct{ field Field }

func (lo local) text(Family) string {
	if lo.field == SrcAddr {
		return "fib saddr type local"
	}
	return "fib daddr type local"
}

func (local) refs(Family, *references) {}

func (lo local) lower(l *lowering) {
	l.add(&expr.Fib{Register: firstRegister, ResultADDRTYPE: true, FlagSADDR: lo.field == SrcAddr, FlagDADDR: lo.field == DstAddr},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: host32(unix.RTN_LOCAL)})
}

// Conntrack matches on what connection tracking knows about the packet.
type Conntrack uint8

// What can be asked of connection tracking.
const (
	StateNew   Conntrack = iota // the first packet of a connection
	StatusDNAT                  // the connection's destination was rewritten
)

func (c Conntrack) text(Family) string {
	return [...]string{"ct state new", "ct status dnat"}[c]
}

func (Conntrack) refs(Family, *references) {}

func (c Conntrack) lower(l *lowering) {
	key, bit := expr.CtKeySTATE, uint32(expr.CtStateBitNEW)
	if c == StatusDNAT {
		key, bit = expr.CtKeySTATUS, 1<<5 // IPS_DST_NAT
	}
	l.add(&expr.Ct{Register: firstRegister, Key: key})
	l.testBits(bit, true)
}

func (l *lowering) testBits(bits uint32, set bool) {
	l.add(&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4, Mask: host32(bits), Xor: host32(0)},
		&expr.Cmp{Op: op(set), Register: firstRegister, Data: host32(0)})
}

// Marked matches packets that have any of the bits set in their mark.
func Marked(bits uint32) Expr { return mark{bits: bits, match: true} }

// NotMarked matches packets that have none of the bits set in their mark.
func NotMarked(bits uint32) Expr { return mark{bits: bits, match: true, clear: true} }

// SetMark sets the bits in the packet's mark.
func SetMark(bits uint32) Expr { return mark{bits: bits} }

// ClearMark clears the bits in the packet's mark.
func ClearMark(bits uint32) Expr { return mark{bits: bits, clear: true} }

type mark struct {
	bits         uint32
	match, clear bool
}

func (m mark) text(Family) string {
	switch {
	case m.match && m.clear:
		return fmt.Sprintf("meta mark & 0x%08x == 0x00000000", m.bits)
	case m.match:
		return fmt.Sprintf("meta mark & 0x%08x != 0x00000000", m.bits)
	case m.clear:
		return fmt.Sprintf("meta mark set meta mark & 0x%08x", ^m.bits)
	}
	return fmt.Sprintf("meta mark set meta mark | 0x%08x", m.bits)
}

func (mark) refs(Family, *references) {}

func (m mark) lower(l *lowering) {
	l.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister})
	if m.match {
		l.testBits(m.bits, !m.clear)
		return
	}
	xor := m.bits // (mark & ^bits) ^ bits sets them, ^ 0 clears them
	if m.clear {
		xor = 0
	}
	l.add(&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4, Mask: host32(^m.bits), Xor: host32(xor)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: firstRegister})
}

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
