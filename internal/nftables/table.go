// Package nftables is the adapter to the kernel's packet filter.
//
// A ruleset is a value: a Table of chains, rules, sets and verdict maps that
// renders as the text `nft list table` would print, so that what a component
// decides can be compared and kept as a golden file. Diff turns the way from
// one Table to another into a Batch, and a Kernel carries a Batch out as one
// transaction: either all of it holds from one packet to the next, or nothing
// has changed.
//
// It reads and writes the tables it is given the names of and no others, over
// netlink, in the network namespace of the calling thread. It runs no program.
package nftables

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Family is the address family of a table. The zero Family is not valid.
type Family uint8

// The families of a dual-stack node: each has a table of its own.
const (
	IPv4 Family = unix.NFPROTO_IPV4
	IPv6 Family = unix.NFPROTO_IPV6
)

func (f Family) String() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// Table is a table, or a part of one: Diff accepts two parts as well as two
// wholes, and Merge puts parts together. Order of chains and sets carries no
// meaning; names are unique.
type Table struct {
	Family Family
	Name   string
	Chains []Chain
	Sets   []Set
}

// Chain is a list of rules. A chain with a Hook is a base chain: the kernel
// enters it by itself; others are entered by jump and goto.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Hook says where and when the kernel enters a base chain. The policy is
// always accept: a table that is deleted or half understood must not cut off
// a node.
type Hook struct {
	Type     string // "filter" or "nat"
	Point    HookPoint
	Priority int32 // lower is earlier
}

// HookPoint is a place on a packet's way through the host.
type HookPoint uint32

// The hook points of the ip and ip6 families.
const (
	Prerouting  HookPoint = unix.NF_INET_PRE_ROUTING
	Input       HookPoint = unix.NF_INET_LOCAL_IN
	Forward     HookPoint = unix.NF_INET_FORWARD
	Output      HookPoint = unix.NF_INET_LOCAL_OUT
	Postrouting HookPoint = unix.NF_INET_POST_ROUTING
)

func (p HookPoint) String() string {
	return [...]string{"prerouting", "input", "forward", "output", "postrouting"}[p]
}

// The priorities nft gives a name.
const (
	PriorityDNAT   int32 = -100
	PriorityFilter int32 = 0
	PrioritySNAT   int32 = 100
)

// Rule is a list of expressions, evaluated from left to right until one does
// not match or gives a verdict.
type Rule struct {
	Exprs   []Expr
	Comment string
	// digest is set instead of Exprs on a rule read back from the kernel.
	digest uint64
}

// R returns a rule of the expressions given.
func R(exprs ...Expr) Rule { return Rule{Exprs: exprs} }

// Noted returns the rule with a comment, shown by nft list.
func (r Rule) Noted(comment string) Rule {
	r.Comment = comment
	return r
}

func (r Rule) text(f Family) string {
	if r.Exprs == nil {
		return fmt.Sprintf("# rule %016x", r.digest)
	}
	parts := make([]string, 0, len(r.Exprs)+1)
	for _, e := range r.Exprs {
		parts = append(parts, e.text(f))
	}
	if r.Comment != "" {
		parts = append(parts, fmt.Sprintf("comment %q", r.Comment))
	}
	return strings.Join(parts, " ")
}

// sum identifies the rule's text. It is stored with the rule in the kernel, so
// that rules read back can be compared without understanding their bytecode.
func (r Rule) sum(f Family) uint64 {
	if r.Exprs == nil {
		return r.digest
	}
	h := fnv.New64a()
	h.Write([]byte(r.text(f))) // never fails
	return h.Sum64()
}

// Set is a named set; with Map a map from keys to verdicts, with Value a map
// from keys to values.
type Set struct {
	Name    string
	Comment string
	Key     []Type
	Map     bool
	Value   []Type
	// Timeout, if not 0, makes the set one that rules add to (see Update) and
	// whose elements go after that time. Its elements belong to the kernel.
	Timeout  time.Duration
	Elements []Element
}

// Element is one element of a set; Verdict and Value are for maps only.
type Element struct {
	Key     Key
	Verdict Verdict
	Value   Key
}

func (s *Set) sameHeader(o *Set) bool {
	return s.Map == o.Map && s.Timeout == o.Timeout && slices.Equal(s.Key, o.Key) && slices.Equal(s.Value, o.Value)
}

// Merge returns the union of parts of one table. Of a set that several parts
// name, the elements are put together; a chain belongs to one part only.
func Merge(parts ...Table) Table {
	if len(parts) == 0 {
		return Table{}
	}
	out := Table{Family: parts[0].Family, Name: parts[0].Name}
	sets := map[string]int{}
	for _, p := range parts {
		out.Chains = append(out.Chains, p.Chains...)
		for _, s := range p.Sets {
			i, ok := sets[s.Name]
			if !ok {
				sets[s.Name] = len(out.Sets)
				s.Elements = slices.Clone(s.Elements)
				out.Sets = append(out.Sets, s)
				continue
			}
			out.Sets[i].Elements = append(out.Sets[i].Elements, s.Elements...)
		}
	}
	return out
}

// String renders the table as nft would list it, sets first, everything in
// order of name.
func (t Table) String() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "table %s %s {\n", t.Family, t.Name)
	sets := slices.Clone(t.Sets)
	slices.SortFunc(sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	for i := range sets {
		sets[i].write(&b)
	}
	chains := slices.Clone(t.Chains)
	slices.SortFunc(chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Hook != nil {
			fmt.Fprintf(&b, "\t\t%s\n", c.Hook)
		}
		for _, r := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text(t.Family))
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func (h *Hook) String() string {
	return fmt.Sprintf("type %s hook %s priority %d; policy accept;", h.Type, h.Point, h.Priority)
}

func (s *Set) kind() string {
	if s.Map || s.Value != nil {
		return "map"
	}
	return "set"
}

func (s *Set) typeText() string {
	switch {
	case s.Map:
		return typeNames(s.Key) + " : verdict"
	case s.Value != nil:
		return typeNames(s.Key) + " : " + typeNames(s.Value)
	}
	return typeNames(s.Key)
}

func typeNames(types []Type) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	return strings.Join(names, " . ")
}

func (s *Set) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s\n", s.kind(), s.Name, s.typeText())
	if s.Timeout != 0 {
		fmt.Fprintf(b, "\t\tflags dynamic,timeout\n\t\ttimeout %s\n", s.Timeout)
	}
	if s.Comment != "" {
		fmt.Fprintf(b, "\t\tcomment %q\n", s.Comment)
	}
	lines := make([]string, len(s.Elements))
	for i, e := range s.Elements {
		lines[i] = e.text(s)
	}
	slices.Sort(lines)
	for i, line := range lines {
		switch {
		case i == 0:
			fmt.Fprintf(b, "\t\telements = { %s", line)
		default:
			fmt.Fprintf(b, ",\n\t\t             %s", line)
		}
	}
	if len(lines) > 0 {
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

func (e Element) text(s *Set) string {
	switch {
	case e.Verdict != Verdict{}:
		return e.Key.text(s.Key) + " : " + e.Verdict.String()
	case e.Value != "":
		return e.Key.text(s.Key) + " : " + e.Value.text(s.Value)
	}
	return e.Key.text(s.Key)
}
