package nftables

import (
	"fmt"
	"slices"
	"strings"
)

// Batch is a list of changes to one table that hold together or not at all.
// It renders as the commands `nft -f` would take.
type Batch struct {
	Family Family
	Table  string
	ops    []change
}

// Empty reports whether there is nothing to do.
func (b *Batch) Empty() bool { return len(b.ops) == 0 }

// Len returns how many changes there are.
func (b *Batch) Len() int { return len(b.ops) }

// change is one change. What is set besides verb depends on it.
type change struct {
	verb    verb
	chain   *Chain  // chains; for rules, the chain they are in
	rule    *Rule   // addRule
	set     *Set    // sets and elements
	element Element // elements
}

type verb uint8

const (
	addTable verb = iota + 1
	deleteTable
	addChain
	flushChain
	deleteChain
	addRule
	addSet
	deleteSet
	addElement
	deleteElement
)

// Create returns the batch that makes the table as given, whatever is there
// under its name before.
func Create(t Table) *Batch {
	b := Delete(t.Family, t.Name)
	b.ops = append(b.ops, change{verb: addTable})
	b.lead(Table{}, t)
	return b
}

// Delete returns the batch that removes a table if it is there.
func Delete(f Family, name string) *Batch {
	// Adding first makes deleting safe where the table is missing.
	return &Batch{Family: f, Table: name, ops: []change{{verb: addTable}, {verb: deleteTable}}}
}

// Diff returns the batch that leads from one table, or part of one, to
// another. What a set's or base chain's head says cannot be changed in the
// kernel: a table that differs there has to be made anew, and Diff of two
// parts panics. The elements of sets with a timeout are left alone.
func Diff(from, to Table) *Batch {
	b := &Batch{Family: to.Family, Table: to.Name}
	b.lead(from, to)
	return b
}

// Replaceable reports whether Diff can lead from one table to the other.
func Replaceable(from, to Table) bool {
	sets := indexed(from.Sets, func(s *Set) string { return s.Name })
	for i := range to.Sets {
		if was := sets[to.Sets[i].Name]; was != nil && !was.sameHeader(&to.Sets[i]) {
			return false
		}
	}
	chains := indexed(from.Chains, func(c *Chain) string { return c.Name })
	for i := range to.Chains {
		if was := chains[to.Chains[i].Name]; was != nil && !sameHook(was.Hook, to.Chains[i].Hook) {
			return false
		}
	}
	return true
}

func sameHook(a, b *Hook) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// lead appends the changes in an order the kernel accepts: everything
// exists before it is referred to and is unreferred to before it goes.
func (b *Batch) lead(from, to Table) {
	if !Replaceable(from, to) {
		panic("nftables: a set or base chain changed its head")
	}
	sets := indexed(from.Sets, func(s *Set) string { return s.Name })
	chains := indexed(from.Chains, func(c *Chain) string { return c.Name })
	keptSets := indexed(to.Sets, func(s *Set) string { return s.Name })
	keptChains := indexed(to.Chains, func(c *Chain) string { return c.Name })

	for i := range to.Sets {
		if s := &to.Sets[i]; sets[s.Name] == nil {
			b.ops = append(b.ops, change{verb: addSet, set: s})
		}
	}
	var changed []*Chain
	for i := range to.Chains {
		c := &to.Chains[i]
		was := chains[c.Name]
		if was == nil {
			b.ops = append(b.ops, change{verb: addChain, chain: c})
		}
		if was == nil || !sameRules(to.Family, was.Rules, c.Rules) {
			changed = append(changed, c)
		}
	}
	var added []change
	for i := range to.Sets {
		added = append(added, b.changeElements(sets[to.Sets[i].Name], &to.Sets[i])...)
	}
	for i := range from.Sets {
		if s := &from.Sets[i]; keptSets[s.Name] == nil {
			b.changeElements(s, &Set{Name: s.Name, Key: s.Key, Map: s.Map, Value: s.Value, Timeout: s.Timeout})
		}
	}
	for _, c := range changed {
		if was := chains[c.Name]; was != nil && len(was.Rules) > 0 {
			b.ops = append(b.ops, change{verb: flushChain, chain: c})
		}
	}
	var gone []*Chain
	for i := range from.Chains {
		if c := &from.Chains[i]; keptChains[c.Name] == nil {
			gone = append(gone, c)
			b.ops = append(b.ops, change{verb: flushChain, chain: c})
		}
	}
	for _, c := range changed {
		for i := range c.Rules {
			b.ops = append(b.ops, change{verb: addRule, chain: c, rule: &c.Rules[i]})
		}
	}
	b.ops = append(b.ops, added...)
	for _, c := range gone {
		b.ops = append(b.ops, change{verb: deleteChain, chain: c})
	}
	for i := range from.Sets {
		if s := &from.Sets[i]; keptSets[s.Name] == nil {
			b.ops = append(b.ops, change{verb: deleteSet, set: s})
		}
	}
}

// changeElements appends the deletions and returns the additions, which have
// to wait for the chains they lead to.
func (b *Batch) changeElements(from, to *Set) (added []change) {
	if to.Timeout != 0 {
		return nil
	}
	was := map[Element]bool{}
	if from != nil {
		for _, e := range from.Elements {
			was[e] = true
		}
	}
	for _, e := range to.Elements {
		if was[e] {
			delete(was, e)
			continue
		}
		added = append(added, change{verb: addElement, set: to, element: e})
	}
	if from != nil {
		for _, e := range from.Elements {
			if was[e] {
				b.ops = append(b.ops, change{verb: deleteElement, set: to, element: e})
			}
		}
	}
	return added
}

func sameRules(f Family, a, b []Rule) bool {
	return slices.EqualFunc(a, b, func(x, y Rule) bool { return x.sum(f) == y.sum(f) })
}

func indexed[T any](list []T, name func(*T) string) map[string]*T {
	m := make(map[string]*T, len(list))
	for i := range list {
		m[name(&list[i])] = &list[i]
	}
	return m
}

// String renders the batch, one command a line.
func (b *Batch) String() string {
	var s strings.Builder
	for i := range b.ops {
		s.WriteString(b.command(&b.ops[i]))
		s.WriteByte('\n')
	}
	return s.String()
}

func (b *Batch) command(o *change) string {
	at := b.Family.String() + " " + b.Table
	switch o.verb {
	case addTable:
		return "add table " + at
	case deleteTable:
		return "delete table " + at
	case addChain:
		if o.chain.Hook != nil {
			return fmt.Sprintf("add chain %s %s { %s }", at, o.chain.Name, o.chain.Hook)
		}
		return fmt.Sprintf("add chain %s %s", at, o.chain.Name)
	case flushChain:
		return fmt.Sprintf("flush chain %s %s", at, o.chain.Name)
	case deleteChain:
		return fmt.Sprintf("delete chain %s %s", at, o.chain.Name)
	case addRule:
		return fmt.Sprintf("add rule %s %s %s", at, o.chain.Name, o.rule.text(b.Family))
	case addSet:
		flags := ""
		if o.set.Timeout != 0 {
			flags = fmt.Sprintf(" flags dynamic,timeout; timeout %s;", o.set.Timeout)
		}
		return fmt.Sprintf("add %s %s %s { type %s;%s }", o.set.kind(), at, o.set.Name, o.set.typeText(), flags)
	case deleteSet:
		return fmt.Sprintf("delete %s %s %s", o.set.kind(), at, o.set.Name)
	case addElement:
		return fmt.Sprintf("add element %s %s { %s }", at, o.set.Name, o.element.text(o.set))
	case deleteElement:
		return fmt.Sprintf("delete element %s %s { %s }", at, o.set.Name, o.element.text(o.set))
	}
	return "# nothing"
}
