package nftables

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// digestData is where a rule's sum is kept in its user data: nft skips types
// it does not know.
const digestData = userdata.Type(0x53)

// elementsPerMessage keeps a list of elements below the 64 KiB an attribute
// can hold, with the longest keys and chain names.
const elementsPerMessage = 128

// attrs is a list of netlink attributes in the making.
type attrs []byte

func (a *attrs) put(typ uint16, value []byte) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(4+len(value)))
	*a = binary.NativeEndian.AppendUint16(*a, typ)
	*a = append(*a, value...)
	a.pad()
}

func (a *attrs) pad() {
	for len(*a)%4 != 0 {
		*a = append(*a, 0)
	}
}

func (a *attrs) str(typ uint16, s string) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(4+len(s)+1))
	*a = binary.NativeEndian.AppendUint16(*a, typ)
	*a = append(*a, s...)
	*a = append(*a, 0)
	a.pad()
}

func (a *attrs) u32(typ uint16, v uint32) {
	*a = binary.NativeEndian.AppendUint16(*a, 8)
	*a = binary.NativeEndian.AppendUint16(*a, typ)
	*a = binary.BigEndian.AppendUint32(*a, v)
}

func (a *attrs) u64(typ uint16, v uint64) {
	*a = binary.NativeEndian.AppendUint16(*a, 12)
	*a = binary.NativeEndian.AppendUint16(*a, typ)
	*a = binary.BigEndian.AppendUint64(*a, v)
}

func (a *attrs) nest(typ uint16, f func()) {
	start := len(*a)
	*a = append(*a, 0, 0, 0, 0)
	f()
	binary.NativeEndian.PutUint16((*a)[start:], uint16(len(*a)-start))
	binary.NativeEndian.PutUint16((*a)[start+2:], typ|unix.NLA_F_NESTED)
}

// encoder turns a batch into netlink messages.
type encoder struct {
	buf    attrs
	family Family
	table  string
	seq    uint32
	set    uint32 // the last ID given to a set of this transaction
	err    error
	// last is where the last message begins.
	last int
	// change has, by a message's sequence number, the index of the change it
	// belongs to, so that the kernel's objections can be told in words.
	change []int
}

// encode returns the whole transaction: the kernel carries out what lies
// between the two batch markers at once.
func encode(b *Batch) (*encoder, error) {
	e := &encoder{family: b.Family, table: b.Table}
	e.marker(unix.NFNL_MSG_BATCH_BEGIN)
	e.change = append(e.change, 0)
	for i := 0; i < len(b.ops); {
		n := e.one(b.ops[i:])
		for len(e.change) < int(e.seq) {
			e.change = append(e.change, i)
		}
		i += n
	}
	// One answer for all: errors come unasked.
	flags := binary.NativeEndian.Uint16(e.buf[e.last+6:])
	binary.NativeEndian.PutUint16(e.buf[e.last+6:], flags|unix.NLM_F_ACK)
	e.marker(unix.NFNL_MSG_BATCH_END)
	return e, e.err
}

func (e *encoder) marker(typ uint16) {
	e.header(typ, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	binary.NativeEndian.PutUint32(e.buf[len(e.buf)-20:], 20)
}

func (e *encoder) header(typ, flags uint16, family uint8, resource uint16) {
	e.buf = append(e.buf, 0, 0, 0, 0)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, typ)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, flags)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, e.seq)
	e.buf = append(e.buf, 0, 0, 0, 0) // port: the kernel fills it in
	e.buf = append(e.buf, family, unix.NFNETLINK_V0)
	e.buf = binary.BigEndian.AppendUint16(e.buf, resource)
	e.seq++
}

func (e *encoder) message(typ, flags uint16, body func(a *attrs)) {
	start := len(e.buf)
	e.last = start
	e.header(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_REQUEST|flags, uint8(e.family), 0)
	body(&e.buf)
	binary.NativeEndian.PutUint32(e.buf[start:], uint32(len(e.buf)-start))
}

// one encodes the first change, or the first few if they are elements of one
// set, and returns how many it took.
func (e *encoder) one(ops []change) int {
	o := &ops[0]
	switch o.verb {
	case addTable:
		e.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func(a *attrs) { a.str(unix.NFTA_TABLE_NAME, e.table) })
	case deleteTable:
		e.message(unix.NFT_MSG_DELTABLE, 0, func(a *attrs) { a.str(unix.NFTA_TABLE_NAME, e.table) })
	case addChain:
		e.addChain(o.chain)
	case deleteChain:
		e.message(unix.NFT_MSG_DELCHAIN, 0, func(a *attrs) {
			a.str(unix.NFTA_CHAIN_TABLE, e.table)
			a.str(unix.NFTA_CHAIN_NAME, o.chain.Name)
		})
	case flushChain:
		e.message(unix.NFT_MSG_DELRULE, 0, func(a *attrs) {
			a.str(unix.NFTA_RULE_TABLE, e.table)
			a.str(unix.NFTA_RULE_CHAIN, o.chain.Name)
		})
	case addRule:
		e.addRule(o.chain, o.rule)
	case addSet:
		e.addSet(o.set)
	case deleteSet:
		e.message(unix.NFT_MSG_DELSET, 0, func(a *attrs) {
			a.str(unix.NFTA_SET_TABLE, e.table)
			a.str(unix.NFTA_SET_NAME, o.set.Name)
		})
	case addElement, deleteElement:
		n := 1
		for n < len(ops) && n < elementsPerMessage && ops[n].verb == o.verb && ops[n].set.Name == o.set.Name {
			n++
		}
		elements := make([]Element, n)
		for i := range elements {
			elements[i] = ops[i].element
		}
		e.elements(o.verb, o.set, 0, elements)
		return n
	}
	return 1
}

func (e *encoder) addChain(c *Chain) {
	e.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func(a *attrs) {
		a.str(unix.NFTA_CHAIN_TABLE, e.table)
		a.str(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Hook == nil {
			return
		}
		a.nest(unix.NFTA_CHAIN_HOOK, func() {
			a.u32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Hook.Point))
			a.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.Hook.Priority))
		})
		a.u32(unix.NFTA_CHAIN_POLICY, uint32(expr.VerdictAccept))
		a.str(unix.NFTA_CHAIN_TYPE, c.Hook.Type)
	})
}

func (e *encoder) addSet(s *Set) {
	e.set++
	e.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func(a *attrs) {
		a.str(unix.NFTA_SET_TABLE, e.table)
		a.str(unix.NFTA_SET_NAME, s.Name)
		a.u32(unix.NFTA_SET_ID, e.set)
		var flags uint32
		if s.Map {
			flags |= unix.NFT_SET_MAP
			a.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
			a.u32(unix.NFTA_SET_DATA_LEN, 0)
		}
		if s.Value != nil {
			flags |= unix.NFT_SET_MAP
			a.u32(unix.NFTA_SET_DATA_TYPE, keyMagic(s.Value))
			a.u32(unix.NFTA_SET_DATA_LEN, uint32(keyLen(s.Value)))
		}
		if s.Timeout != 0 {
			flags |= unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL
			a.u64(unix.NFTA_SET_TIMEOUT, uint64(s.Timeout.Milliseconds()))
			// Sources are chosen by strangers: what they can fill is bounded.
			a.nest(unix.NFTA_SET_DESC, func() { a.u32(unix.NFTA_SET_DESC_SIZE, maxDynamic) })
		}
		a.u32(unix.NFTA_SET_FLAGS, flags)
		a.u32(unix.NFTA_SET_KEY_TYPE, keyMagic(s.Key))
		a.u32(unix.NFTA_SET_KEY_LEN, uint32(keyLen(s.Key)))
		order := uint32(2) // big endian; nft goes by it when it lists
		if s.Key[0] == TypeIface || s.Key[0] == TypeMark {
			order = 1 // the host's
		}
		data := userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order)
		if s.Comment != "" {
			data = userdata.AppendString(data, userdata.NFTNL_UDATA_SET_COMMENT, s.Comment)
		}
		a.put(unix.NFTA_SET_USERDATA, data)
	})
}

// maxDynamic bounds a set that packets add to.
const maxDynamic = 65535

// keyMagic is nft's number for a type or a concatenation of types: six bits
// each. The kernel only stores it.
func keyMagic(types []Type) uint32 {
	var magic uint32
	for _, t := range types {
		dt := t.datatype()
		magic = magic<<6 | dt.GetNFTMagic()&0x3f
	}
	return magic
}

// keyLen is the length of the key in bytes: of a single field its own, of
// several the sum of the padded ones.
func keyLen(types []Type) int {
	if len(types) == 1 {
		return int(types[0].datatype().Bytes)
	}
	return keySize(types)
}

func (e *encoder) elements(v verb, set *Set, id uint32, elements []Element) {
	key, val := keyLen(set.Key), keyLen(set.Value)
	typ, flags := uint16(unix.NFT_MSG_NEWSETELEM), uint16(unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if v == deleteElement {
		typ, flags = unix.NFT_MSG_DELSETELEM, 0
	}
	e.message(typ, flags, func(a *attrs) {
		a.str(unix.NFTA_SET_ELEM_LIST_TABLE, e.table)
		a.str(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
		a.u32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
		a.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
			for i := range elements {
				a.nest(unix.NFTA_LIST_ELEM, func() { a.element(&elements[i], key, val) })
			}
		})
	})
}

func (a *attrs) element(el *Element, key, val int) {
	a.nest(unix.NFTA_SET_ELEM_KEY, func() { a.put(unix.NFTA_DATA_VALUE, []byte(el.Key[:key])) })
	if el.Value != "" {
		a.nest(unix.NFTA_SET_ELEM_DATA, func() { a.put(unix.NFTA_DATA_VALUE, []byte(el.Value[:val])) })
	}
	if el.Verdict == (Verdict{}) {
		return
	}
	a.nest(unix.NFTA_SET_ELEM_DATA, func() {
		a.nest(unix.NFTA_DATA_VERDICT, func() {
			a.u32(unix.NFTA_VERDICT_CODE, uint32(el.Verdict.code()))
			if el.Verdict.Chain != "" {
				a.str(unix.NFTA_VERDICT_CHAIN, el.Verdict.Chain)
			}
		})
	})
}

// lowering collects a rule's bytecode.
type lowering struct {
	family Family
	enc    *encoder
	code   []expr.Any
}

func (l *lowering) add(code ...expr.Any) { l.code = append(l.code, code...) }

// anonymous makes a nameless map from numbers to verdicts, which lives and
// dies with the rule, and returns its ID.
func (l *lowering) anonymous(elements []Element) uint32 {
	e := l.enc
	e.set++
	id := e.set
	set := &Set{Name: "__map%d", Key: []Type{typeIndex}}
	e.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func(a *attrs) {
		a.str(unix.NFTA_SET_TABLE, e.table)
		a.str(unix.NFTA_SET_NAME, set.Name)
		a.u32(unix.NFTA_SET_ID, id)
		a.u32(unix.NFTA_SET_FLAGS, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT|unix.NFT_SET_MAP)
		a.u32(unix.NFTA_SET_KEY_TYPE, keyMagic(set.Key))
		a.u32(unix.NFTA_SET_KEY_LEN, 4)
		a.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		a.u32(unix.NFTA_SET_DATA_LEN, 0)
		a.nest(unix.NFTA_SET_DESC, func() { a.u32(unix.NFTA_SET_DESC_SIZE, uint32(len(elements))) })
		a.put(unix.NFTA_SET_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, 1)) // the host's
	})
	for len(elements) > 0 {
		n := min(len(elements), elementsPerMessage)
		e.elements(addElement, set, id, elements[:n])
		elements = elements[n:]
	}
	return id
}

func (e *encoder) addRule(c *Chain, r *Rule) {
	l := &lowering{family: e.family, enc: e}
	for _, x := range r.Exprs {
		x.lower(l)
	}
	e.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func(a *attrs) {
		a.str(unix.NFTA_RULE_TABLE, e.table)
		a.str(unix.NFTA_RULE_CHAIN, c.Name)
		a.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
			for _, x := range l.code {
				data, err := expr.Marshal(byte(e.family), x)
				if err != nil {
					e.err = err
					return
				}
				a.nest(unix.NFTA_LIST_ELEM, func() { *a = append(*a, data...) })
			}
		})
		var data []byte
		if r.Comment != "" {
			data = userdata.AppendString(data, userdata.TypeComment, r.Comment)
		}
		a.put(unix.NFTA_RULE_USERDATA, userdata.Append(data, digestData, binary.BigEndian.AppendUint64(nil, r.sum(e.family))))
	})
}
