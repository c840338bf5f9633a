package nftables

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Fake is a Kernel in memory that refuses what the real one refuses: names
// that do not exist or exist already, chains and sets still referred to, and
// loops. Beyond that it refuses keys of the wrong type, which the kernel takes
// and then reads as something else. The zero Fake is empty.
type Fake struct {
	mu     sync.Mutex
	tables map[tableID]*fakeTable
	// Applied counts the batches that were carried out.
	Applied int
}

type tableID struct {
	family Family
	name   string
}

type fakeTable struct {
	chains map[string]Chain
	sets   map[string]fakeSet
}

type fakeSet struct {
	head     Set
	elements map[Key]Element
}

// Read implements Kernel, with the rules in full.
func (f *Fake) Read(_ context.Context, family Family, name string) (Table, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ft := f.tables[tableID{family, name}]
	if ft == nil {
		return Table{}, nil
	}
	t := Table{Family: family, Name: name}
	for _, c := range ft.chains {
		t.Chains = append(t.Chains, c)
	}
	for _, s := range ft.sets {
		set := s.head
		for _, e := range s.elements {
			set.Elements = append(set.Elements, e)
		}
		t.Sets = append(t.Sets, set)
	}
	return t, nil
}

// Apply implements Kernel.
func (f *Fake) Apply(_ context.Context, b *Batch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := tableID{b.Family, b.Table}
	t := f.tables[id].clone()
	for i := range b.ops {
		next, err := t.apply(b.Family, &b.ops[i])
		if err != nil {
			return fmt.Errorf("changing table %s %s: %s: %w", b.Family, b.Table, b.command(&b.ops[i]), err)
		}
		t = next
	}
	if t != nil {
		if err := t.validate(b.Family); err != nil {
			return fmt.Errorf("changing table %s %s: %w", b.Family, b.Table, err)
		}
	}
	if f.tables == nil {
		f.tables = map[tableID]*fakeTable{}
	}
	f.tables[id] = t
	if t == nil {
		delete(f.tables, id)
	}
	f.Applied++
	return nil
}

func (t *fakeTable) clone() *fakeTable {
	if t == nil {
		return nil
	}
	c := &fakeTable{chains: maps.Clone(t.chains), sets: map[string]fakeSet{}}
	for name, s := range t.sets {
		c.sets[name] = fakeSet{s.head, maps.Clone(s.elements)}
	}
	return c
}

func (t *fakeTable) apply(f Family, o *change) (*fakeTable, error) {
	switch {
	case o.verb == addTable && t == nil:
		return &fakeTable{chains: map[string]Chain{}, sets: map[string]fakeSet{}}, nil
	case o.verb == addTable:
		return t, nil
	case t == nil:
		return nil, unix.ENOENT
	case o.verb == deleteTable:
		return nil, nil
	}
	var err error
	switch o.verb {
	case addChain, flushChain, deleteChain, addRule:
		err = t.applyChain(o)
	default:
		err = t.applySet(o)
	}
	return t, err
}

func (t *fakeTable) applyChain(o *change) error {
	c, ok := t.chains[o.chain.Name]
	switch {
	case o.verb == addChain && ok:
		return unix.EEXIST
	case o.verb != addChain && !ok:
		return unix.ENOENT
	}
	switch o.verb {
	case addChain:
		t.chains[o.chain.Name] = Chain{Name: o.chain.Name, Hook: o.chain.Hook}
	case flushChain:
		c.Rules = nil
		t.chains[c.Name] = c
	case addRule:
		c.Rules = append(slices.Clip(c.Rules), *o.rule)
		t.chains[c.Name] = c
	case deleteChain:
		if len(c.Rules) > 0 {
			return unix.EBUSY
		}
		delete(t.chains, c.Name)
	}
	return nil
}

func (t *fakeTable) applySet(o *change) error {
	s, ok := t.sets[o.set.Name]
	switch {
	case o.verb == addSet && ok:
		return unix.EEXIST
	case o.verb != addSet && !ok:
		return unix.ENOENT
	}
	switch o.verb {
	case addSet:
		head := *o.set
		head.Elements = nil
		t.sets[head.Name] = fakeSet{head, map[Key]Element{}}
	case deleteSet:
		delete(t.sets, s.head.Name)
	case addElement:
		if _, ok := s.elements[o.element.Key]; ok {
			return unix.EEXIST
		}
		s.elements[o.element.Key] = o.element
	case deleteElement:
		if _, ok := s.elements[o.element.Key]; !ok {
			return unix.ENOENT
		}
		delete(s.elements, o.element.Key)
	}
	return nil
}

// references is what a rule refers to.
type references struct {
	chains []string
	sets   []setReference
	keys   []keyReference
}

type setReference struct {
	name          string
	key, value    []Type
	vmap, dynamic bool
}

type keyReference struct {
	key   Key
	types []Type
}

func (r *references) chain(name string) { r.chains = append(r.chains, name) }

func (r *references) set(name string, key []Type, vmap bool) {
	r.sets = append(r.sets, setReference{name: name, key: key, vmap: vmap})
}

func (r *references) dataMap(name string, key, value []Type) {
	r.sets = append(r.sets, setReference{name: name, key: key, value: value})
}

func (r *references) dynamicSet(name string, key []Type) {
	r.sets = append(r.sets, setReference{name: name, key: key, dynamic: true})
}

func (r *references) key(k Key, types []Type) { r.keys = append(r.keys, keyReference{k, types}) }

// validate checks the table as a whole, as the kernel does on commit.
func (t *fakeTable) validate(f Family) error {
	next := map[string][]string{} // the chains a chain leads to
	for _, c := range t.chains {
		for _, r := range c.Rules {
			var refs references
			for _, e := range r.Exprs {
				e.refs(f, &refs)
			}
			if err := t.resolve(&refs); err != nil {
				return fmt.Errorf("chain %s: %s: %w", c.Name, r.text(f), err)
			}
			next[c.Name] = append(next[c.Name], refs.chains...)
			for _, s := range refs.sets {
				for _, e := range t.sets[s.name].elements {
					next[c.Name] = append(next[c.Name], e.Verdict.Chain)
				}
			}
		}
	}
	for _, s := range t.sets {
		if err := t.validateSet(&s); err != nil {
			return fmt.Errorf("%s %s: %w", s.head.kind(), s.head.Name, err)
		}
	}
	done := map[string]bool{}
	for name, c := range t.chains {
		if c.Hook != nil && loops(name, next, map[string]bool{}, done) {
			return fmt.Errorf("chain %s: %w", name, unix.EMLINK)
		}
	}
	return nil
}

func (t *fakeTable) resolve(refs *references) error {
	for _, name := range refs.chains {
		if err := t.target(name); err != nil {
			return err
		}
	}
	for _, r := range refs.sets {
		s, ok := t.sets[r.name]
		if !ok {
			return fmt.Errorf("no set %s: %w", r.name, unix.ENOENT)
		}
		if !slices.Equal(s.head.Key, r.key) || !slices.Equal(s.head.Value, r.value) || s.head.Map != r.vmap || r.dynamic && s.head.Timeout == 0 {
			return fmt.Errorf("%s %s is of type %s: %w", s.head.kind(), r.name, s.head.typeText(), unix.EINVAL)
		}
	}
	for _, k := range refs.keys {
		if len(k.key) != keySize(k.types) {
			return fmt.Errorf("%x is no %v: %w", string(k.key), k.types, unix.EINVAL)
		}
	}
	return nil
}

// target checks that a chain can be jumped to.
func (t *fakeTable) target(name string) error {
	c, ok := t.chains[name]
	if !ok {
		return fmt.Errorf("no chain %s: %w", name, unix.ENOENT)
	}
	if c.Hook != nil {
		return fmt.Errorf("chain %s has a hook: %w", name, unix.EOPNOTSUPP)
	}
	return nil
}

func (t *fakeTable) validateSet(s *fakeSet) error {
	for _, e := range s.elements {
		if len(e.Key) != keySize(s.head.Key) || len(e.Value) != keySize(s.head.Value) || s.head.Map != (e.Verdict != Verdict{}) {
			return fmt.Errorf("element %s does not fit type %s: %w", e.text(&s.head), s.head.typeText(), unix.EINVAL)
		}
		if e.Verdict.Chain != "" {
			if err := t.target(e.Verdict.Chain); err != nil {
				return err
			}
		}
	}
	return nil
}

// loops reports whether a chain leads back to one on the path to it.
func loops(name string, next map[string][]string, path, done map[string]bool) bool {
	if path[name] {
		return true
	}
	if done[name] {
		return false
	}
	path[name] = true
	for _, n := range next[name] {
		if loops(n, next, path, done) {
			return true
		}
	}
	delete(path, name)
	done[name] = true
	return false
}
