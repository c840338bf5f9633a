package nodelifecycle

import (
	"maps"
	"slices"
	"time"
)

// zones limits how fast nodes are given up: one zone's nodes at a rate that
// depends on how many of them are not ready, and none at all if everything
// seems down, since then it is rather this controller that sees nothing.
// It is pure but for its memory; times come from the caller.
type zones struct {
	cfg   Config
	nodes map[string]fact
	zones map[string]*zone
}

type fact struct {
	zone  string
	ready bool
	since time.Time // when the node became ready or not
}

// settle is how long a node must have been lost before it is given up: nodes
// that are lost together are not noticed all at once, and only the whole
// picture tells how bad it is.
const settle = 5 * time.Second

type zone struct {
	ready, notReady int
	next            time.Time       // when the next node may be given up
	waiting         map[string]bool // nodes that wait for a rate above 0
}

func newZones(cfg Config) *zones {
	return &zones{cfg: cfg, nodes: map[string]fact{}, zones: map[string]*zone{}}
}

// observe notes the readiness of a node and returns those that must be looked
// at again since the rate that holds for them has changed.
func (z *zones) observe(name, in string, ready bool, now time.Time) []string {
	if was, ok := z.nodes[name]; ok && was.zone == in && was.ready == ready {
		return nil
	}
	return z.change(func() {
		z.drop(name)
		z.nodes[name] = fact{zone: in, ready: ready, since: now}
		if z.zones[in] == nil {
			z.zones[in] = &zone{waiting: map[string]bool{}}
		}
		z.zones[in].count(ready, 1)
	})
}

// forget drops a node that is gone; it returns the same as observe.
func (z *zones) forget(name string) []string { return z.change(func() { z.drop(name) }) }

func (z *zones) drop(name string) {
	was, ok := z.nodes[name]
	if !ok {
		return
	}
	delete(z.nodes, name)
	in := z.zones[was.zone]
	in.count(was.ready, -1)
	delete(in.waiting, name)
	if in.ready+in.notReady == 0 {
		delete(z.zones, was.zone)
	}
}

func (z *zone) count(ready bool, n int) {
	if ready {
		z.ready += n
	} else {
		z.notReady += n
	}
}

// change does f and returns who is concerned.
func (z *zones) change(f func()) (woken []string) {
	down := z.allDown()
	f()
	if z.allDown() != down {
		for _, in := range z.zones {
			clear(in.waiting)
		}
		return slices.Sorted(maps.Keys(z.nodes))
	}
	for _, in := range z.zones {
		if len(in.waiting) > 0 && z.rate(in) > 0 {
			woken = slices.AppendSeq(woken, maps.Keys(in.waiting))
			clear(in.waiting)
		}
	}
	return woken
}

// allDown reports whether no node at all is ready.
func (z *zones) allDown() bool {
	for _, in := range z.zones {
		if in.ready > 0 {
			return false
		}
	}
	return len(z.zones) > 0
}

// rate is how many nodes of a zone may be given up per second.
func (z *zones) rate(in *zone) float64 {
	all := in.ready + in.notReady
	switch {
	case in.ready == 0: // the zone is lost as a whole, its pods belong elsewhere
		return z.cfg.EvictionRate
	case in.notReady > 2 && float64(in.notReady)/float64(all) >= z.cfg.Unhealthy:
		if all > z.cfg.LargeZone {
			return z.cfg.SecondaryRate
		}
		return 0
	}
	return z.cfg.EvictionRate
}

// admit says whether the node may be given up now; if not, when to ask again,
// 0 for when observe says so.
func (z *zones) admit(name string, now time.Time) (ok bool, wait time.Duration) {
	in := z.zones[z.nodes[name].zone]
	rate := z.rate(in)
	if rate <= 0 {
		in.waiting[name] = true
		return false, 0
	}
	if left := max(in.next.Sub(now), z.nodes[name].since.Add(settle).Sub(now)); left > 0 {
		return false, left
	}
	in.next = now.Add(time.Duration(float64(time.Second) / rate))
	return true, 0
}
