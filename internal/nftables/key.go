package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
)

// Type is the type of one field of a set's key.
type Type uint8

// The types that keys are made of.
const (
	TypeIPv4  Type = iota + 1 // an IPv4 address
	TypeIPv6                  // an IPv6 address
	TypeProto                 // a transport protocol's number
	TypePort                  // a transport port
	TypeIface                 // an interface name
	TypeMark                  // a number of 32 bits, in host byte order
	typeIndex                 // what numgen draws, in host byte order
)

func (t Type) datatype() nftables.SetDatatype {
	switch t {
	case TypeIPv4:
		return nftables.TypeIPAddr
	case TypeIPv6:
		return nftables.TypeIP6Addr
	case TypeProto:
		return nftables.TypeInetProto
	case TypePort:
		return nftables.TypeInetService
	case TypeIface:
		return nftables.TypeIFName
	case TypeMark:
		return nftables.TypeMark
	case typeIndex:
		return nftables.TypeInteger
	}
	panic(fmt.Sprintf("nftables: no such type: %d", t))
}

func (t Type) String() string { return t.datatype().Name }

// size is the room the field takes in a key: whole 32-bit registers.
func (t Type) size() int { return int(t.datatype().Bytes+3) &^ 3 }

// Address returns the type of the family's addresses.
func (f Family) Address() Type {
	if f == IPv6 {
		return TypeIPv6
	}
	return TypeIPv4
}

// Key is the key of a set element as the kernel has it: the fields one after
// the other, each padded to 32 bits. Keys are comparable. Build one with the
// methods, in the order of the set's types: Key("").Addr(a).Proto(6).Port(80).
type Key string

// Addr appends an address of either family.
func (k Key) Addr(a netip.Addr) Key { return k + Key(a.AsSlice()) }

// Proto appends a protocol number.
func (k Key) Proto(p Proto) Key { return k + Key([]byte{byte(p), 0, 0, 0}) }

// Port appends a port.
func (k Key) Port(p uint16) Key { return k + Key([]byte{byte(p >> 8), byte(p), 0, 0}) }

// Iface appends an interface name.
func (k Key) Iface(name string) Key {
	var b [16]byte
	copy(b[:15], name)
	return k + Key(b[:])
}

// Mark appends a number.
func (k Key) Mark(v uint32) Key { return k + Key(host32(v)) }

func (k Key) text(types []Type) string {
	parts := make([]string, 0, len(types))
	for _, t := range types {
		if len(k) < t.size() {
			return fmt.Sprintf("# short key %x", string(k))
		}
		f := []byte(k[:t.size()])
		k = k[t.size():]
		switch t {
		case TypeIPv4, TypeIPv6:
			a, _ := netip.AddrFromSlice(f) // f has an address's length
			parts = append(parts, a.String())
		case TypeProto:
			parts = append(parts, Proto(f[0]).String())
		case TypePort:
			parts = append(parts, fmt.Sprint(binary.BigEndian.Uint16(f)))
		case TypeIface:
			parts = append(parts, fmt.Sprintf("%q", strings.TrimRight(string(f), "\x00")))
		case TypeMark:
			parts = append(parts, fmt.Sprintf("0x%08x", binary.NativeEndian.Uint32(f)))
		case typeIndex:
			parts = append(parts, fmt.Sprint(binary.NativeEndian.Uint32(f)))
		}
	}
	return strings.Join(parts, " . ")
}

func keySize(types []Type) int {
	n := 0
	for _, t := range types {
		n += t.size()
	}
	return n
}

// Proto is a transport protocol by its IP protocol number.
type Proto uint8

// The protocols a Service port can have.
const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprint(uint8(p))
}
