package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Fake is a Tree in memory, which may be used by many goroutines.
type Fake struct {
	root string

	mu     sync.Mutex
	groups map[string]*fakeGroup
}

type fakeGroup struct {
	resources Resources
	stats     Stats
	pids      map[int]bool
}

// NewFake returns an empty Fake below root.
func NewFake(root string) (*Fake, error) {
	if err := validRoot(root); err != nil {
		return nil, err
	}
	return &Fake{root: root, groups: map[string]*fakeGroup{}}, nil
}

// AddProcess puts a process into a group, as a started container would.
func (f *Fake) AddProcess(path string, pid int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(path)
	if err == nil {
		g.pids[pid] = true
	}
	return err
}

// SetStats sets what Stats returns for a group; the number of processes is kept by the fake.
func (f *Fake) SetStats(path string, s Stats) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(path)
	if err == nil {
		g.stats = s
	}
	return err
}

// Resources returns the limits a group was given.
func (f *Fake) Resources(path string) (Resources, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(path)
	if err != nil {
		return Resources{}, err
	}
	r := g.resources
	r.Hugepages = maps.Clone(r.Hugepages)
	return r, nil
}

func (f *Fake) group(p string) (*fakeGroup, error) {
	if err := inside(f.root, p); err != nil {
		return nil, err
	}
	g, ok := f.groups[p]
	if !ok {
		return nil, fmt.Errorf("cgroup %s: %w", p, fs.ErrNotExist)
	}
	return g, nil
}

// Create implements Tree.
func (f *Fake) Create(p string, r Resources) error {
	if err := errors.Join(inside(f.root, p), r.valid()); err != nil {
		return fmt.Errorf("creating cgroup %s: %w", p, err)
	}
	f.mu.Lock()
	for at := p; inside(f.root, at) == nil; at = path.Dir(at) {
		if f.groups[at] == nil {
			f.groups[at] = &fakeGroup{pids: map[int]bool{}}
		}
	}
	f.mu.Unlock()
	return f.Update(p, r)
}

// Update implements Tree.
func (f *Fake) Update(p string, r Resources) error {
	if err := r.valid(); err != nil {
		return fmt.Errorf("updating cgroup %s: %w", p, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(p)
	if err != nil {
		return err
	}
	set(&g.resources.CPUShares, r.CPUShares)
	set(&g.resources.CPUQuota, r.CPUQuota)
	set(&g.resources.CPUPeriod, r.CPUPeriod)
	set(&g.resources.Memory, r.Memory)
	set(&g.resources.Pids, r.Pids)
	if len(r.Hugepages) > 0 && g.resources.Hugepages == nil {
		g.resources.Hugepages = map[string]int64{}
	}
	maps.Copy(g.resources.Hugepages, r.Hugepages)
	return nil
}

func set[T any](to **T, from *T) {
	if from != nil {
		value := *from
		*to = &value
	}
}

// Stats implements Tree.
func (f *Fake) Stats(p string) (Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(p)
	if err != nil {
		return Stats{}, err
	}
	s := g.stats
	s.Pids = uint64(len(f.processes(p)))
	return s, nil
}

// Children implements Tree.
func (f *Fake) Children(p string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.group(p); err != nil {
		return nil, err
	}
	var names []string
	for at := range f.groups {
		if path.Dir(at) == p {
			names = append(names, path.Base(at))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Processes implements Tree.
func (f *Fake) Processes(p string) ([]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.group(p); err != nil {
		return nil, err
	}
	return f.processes(p), nil
}

func (f *Fake) processes(p string) []int {
	var pids []int
	for at, g := range f.groups {
		if at == p || strings.HasPrefix(at, p+"/") {
			pids = slices.AppendSeq(pids, maps.Keys(g.pids))
		}
	}
	slices.Sort(pids)
	return pids
}

// Kill implements Tree.
func (f *Fake) Kill(ctx context.Context, p string) error {
	if err := errors.Join(inside(f.root, p), ctx.Err()); err != nil {
		return fmt.Errorf("killing cgroup %s: %w", p, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, g := range f.groups {
		if at == p || strings.HasPrefix(at, p+"/") {
			clear(g.pids)
		}
	}
	return nil
}

// Remove implements Tree.
func (f *Fake) Remove(p string) error {
	if err := inside(f.root, p); err != nil {
		return fmt.Errorf("removing cgroup %s: %w", p, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.processes(p)) > 0 {
		return fmt.Errorf("removing cgroup %s: %w", p, unix.EBUSY)
	}
	maps.DeleteFunc(f.groups, func(at string, _ *fakeGroup) bool { return at == p || strings.HasPrefix(at, p+"/") })
	return nil
}
