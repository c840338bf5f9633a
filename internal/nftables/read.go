package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// errInterrupted is a dump during which someone else changed the ruleset.
var errInterrupted = errors.New("the ruleset changed while it was read")

// readAttempts bounds how often a read that was interrupted starts over.
const readAttempts = 10

// Read implements Kernel.
func (n *NetNS) Read(ctx context.Context, f Family, name string) (Table, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range readAttempts {
		t, err := n.read(f, name)
		if !errors.Is(err, errInterrupted) || ctx.Err() != nil {
			return t, err
		}
	}
	return Table{}, errInterrupted
}

func (n *NetNS) read(f Family, name string) (Table, error) {
	t := Table{Family: f, Name: name}
	found := false
	err := n.dump(f, unix.NFT_MSG_GETTABLE, nil, func(b []byte) {
		for typ, v := range attributes(b) {
			if typ == unix.NFTA_TABLE_NAME && text(v) == name {
				found = true
			}
		}
	})
	if err != nil || !found {
		return Table{}, err
	}
	if err := n.readChains(&t); err != nil {
		return Table{}, fmt.Errorf("reading chains: %w", err)
	}
	if err := n.readRules(&t); err != nil {
		return Table{}, fmt.Errorf("reading rules: %w", err)
	}
	if err := n.readSets(&t); err != nil {
		return Table{}, fmt.Errorf("reading sets: %w", err)
	}
	return t, nil
}

// dump asks for all of a kind and hands out the attributes of each.
func (n *NetNS) dump(f Family, typ uint16, ask func(*attrs), each func([]byte)) error {
	e := &encoder{family: f}
	e.message(typ, unix.NLM_F_DUMP, func(a *attrs) {
		if ask != nil {
			ask(a)
		}
	})
	if err := n.send(e.buf); err != nil {
		return err
	}
	whole := false
	err := n.receive(func(m message) (bool, error) {
		switch {
		case m.flags&unix.NLM_F_DUMP_INTR != 0:
			return true, errInterrupted
		case m.typ == unix.NLMSG_DONE:
			whole = true
			return true, nil
		case m.typ == unix.NLMSG_ERROR:
			return true, m.err()
		}
		if m.family == f {
			each(m.body)
		}
		return false, nil
	})
	if err == nil && !whole {
		return errInterrupted
	}
	return err
}

func (n *NetNS) readChains(t *Table) error {
	return n.dump(t.Family, unix.NFT_MSG_GETCHAIN, nil, func(b []byte) {
		var c Chain
		var hook Hook
		var table string
		for typ, v := range attributes(b) {
			switch typ {
			case unix.NFTA_CHAIN_TABLE:
				table = text(v)
			case unix.NFTA_CHAIN_NAME:
				c.Name = text(v)
			case unix.NFTA_CHAIN_TYPE:
				hook.Type = text(v)
			case unix.NFTA_CHAIN_HOOK:
				c.Hook = &hook
				for typ, v := range attributes(v) {
					switch typ {
					case unix.NFTA_HOOK_HOOKNUM:
						hook.Point = HookPoint(binary.BigEndian.Uint32(v))
					case unix.NFTA_HOOK_PRIORITY:
						hook.Priority = int32(binary.BigEndian.Uint32(v))
					}
				}
			}
		}
		if table == t.Name {
			t.Chains = append(t.Chains, c)
		}
	})
}

func (n *NetNS) readRules(t *Table) error {
	chains := indexed(t.Chains, func(c *Chain) string { return c.Name })
	ask := func(a *attrs) { a.str(unix.NFTA_RULE_TABLE, t.Name) }
	return n.dump(t.Family, unix.NFT_MSG_GETRULE, ask, func(b []byte) {
		var r Rule
		var table, chain string
		for typ, v := range attributes(b) {
			switch typ {
			case unix.NFTA_RULE_TABLE:
				table = text(v)
			case unix.NFTA_RULE_CHAIN:
				chain = text(v)
			case unix.NFTA_RULE_USERDATA:
				if d := userdata.Get(v, digestData); len(d) == 8 {
					r.digest = binary.BigEndian.Uint64(d)
				}
			}
		}
		if c := chains[chain]; c != nil && table == t.Name {
			c.Rules = append(c.Rules, r)
		}
	})
}

func (n *NetNS) readSets(t *Table) error {
	ask := func(a *attrs) { a.str(unix.NFTA_SET_TABLE, t.Name) }
	err := n.dump(t.Family, unix.NFT_MSG_GETSET, ask, func(b []byte) {
		var s Set
		var table string
		var flags, data uint32
		for typ, v := range attributes(b) {
			switch typ {
			case unix.NFTA_SET_TABLE:
				table = text(v)
			case unix.NFTA_SET_NAME:
				s.Name = text(v)
			case unix.NFTA_SET_FLAGS:
				flags = binary.BigEndian.Uint32(v)
			case unix.NFTA_SET_KEY_TYPE:
				s.Key = typesOfMagic(binary.BigEndian.Uint32(v))
			case unix.NFTA_SET_DATA_TYPE:
				data = binary.BigEndian.Uint32(v)
			case unix.NFTA_SET_TIMEOUT:
				s.Timeout = time.Duration(binary.BigEndian.Uint64(v)) * time.Millisecond
			}
		}
		s.Map = data == unix.NFT_DATA_VERDICT
		if !s.Map {
			s.Value = typesOfMagic(data)
		}
		if table == t.Name && flags&unix.NFT_SET_ANONYMOUS == 0 {
			t.Sets = append(t.Sets, s)
		}
	})
	if err != nil {
		return err
	}
	for i := range t.Sets {
		if s := &t.Sets[i]; s.Timeout == 0 {
			if err := n.readElements(t, s); err != nil {
				return fmt.Errorf("reading elements of %s: %w", s.Name, err)
			}
		}
	}
	return nil
}

func (n *NetNS) readElements(t *Table, s *Set) error {
	ask := func(a *attrs) {
		a.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
		a.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	}
	return n.dump(t.Family, unix.NFT_MSG_GETSETELEM, ask, func(b []byte) {
		for typ, v := range attributes(b) {
			if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, v := range attributes(v) {
				s.Elements = append(s.Elements, elementOf(v))
			}
		}
	})
}

func elementOf(b []byte) Element {
	var el Element
	for typ, v := range attributes(b) {
		for kind, v := range attributes(v) {
			switch typ {
			case unix.NFTA_SET_ELEM_KEY:
				el.Key = Key(padded(v))
			case unix.NFTA_SET_ELEM_DATA:
				if kind == unix.NFTA_DATA_VERDICT {
					el.Verdict = readVerdict(v)
				} else {
					el.Value = Key(padded(v))
				}
			}
		}
	}
	return el
}

// padded fills a key of one short field up, as Key has it.
func padded(b []byte) []byte {
	return append(slices.Clone(b), make([]byte, (4-len(b)%4)%4)...)
}

func readVerdict(b []byte) Verdict {
	var code int32
	var chain string
	for typ, v := range attributes(b) {
		switch typ {
		case unix.NFTA_VERDICT_CODE:
			code = int32(binary.BigEndian.Uint32(v))
		case unix.NFTA_VERDICT_CHAIN:
			chain = text(v)
		}
	}
	return verdictOf(code, chain)
}

// typesOfMagic reads nft's number for a type back; nil if a part is none of
// ours.
func typesOfMagic(magic uint32) []Type {
	byMagic := map[uint32]Type{
		nftables.TypeIPAddr.GetNFTMagic():      TypeIPv4,
		nftables.TypeIP6Addr.GetNFTMagic():     TypeIPv6,
		nftables.TypeInetProto.GetNFTMagic():   TypeProto,
		nftables.TypeInetService.GetNFTMagic(): TypePort,
		nftables.TypeIFName.GetNFTMagic():      TypeIface,
		nftables.TypeMark.GetNFTMagic():        TypeMark,
	}
	var types []Type
	for ; magic != 0; magic >>= 6 {
		t, ok := byMagic[magic&0x3f]
		if !ok {
			return nil
		}
		types = append(types, t)
	}
	slices.Reverse(types)
	return types
}
