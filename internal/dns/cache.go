package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of how long what others say is kept.
const (
	maxTTL         = time.Hour
	maxNegativeTTL = 30 * time.Minute
	failureTTL     = 5 * time.Second
)

// question is what an answer is kept under.
type question struct {
	name   string
	qtype  uint16
	qclass uint16
	do, cd bool
}

// cache keeps answers from upstream, the least recently used going first when
// it is full. It is safe for concurrent use.
type cache struct {
	mu      sync.Mutex
	max     int
	entries map[question]*list.Element
	order   *list.List // of *cached, most recently used first
}

type cached struct {
	q       question
	msg     *dns.Msg // read-only
	since   time.Time
	expires time.Time
}

func newCache(max int) *cache {
	return &cache{max: max, entries: map[question]*list.Element{}, order: list.New()}
}

// get returns a copy of the answer with the time it has been kept taken off,
// nil if there is none.
func (c *cache) get(q question, now time.Time) *dns.Msg {
	c.mu.Lock()
	el := c.entries[q]
	if el == nil {
		c.mu.Unlock()
		return nil
	}
	e := el.Value.(*cached)
	if !now.Before(e.expires) {
		c.order.Remove(el)
		delete(c.entries, q)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(el)
	c.mu.Unlock()
	m := e.msg.Copy()
	age := uint32(now.Sub(e.since) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m
}

// put keeps an answer as long as it allows.
func (c *cache) put(q question, m *dns.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[q]; el != nil {
		c.order.Remove(el)
	}
	c.entries[q] = c.order.PushFront(&cached{q: q, msg: m, since: now, expires: now.Add(ttl)})
	for c.order.Len() > c.max {
		last := c.order.Back()
		c.order.Remove(last)
		delete(c.entries, last.Value.(*cached).q)
	}
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

// lifetime is the least TTL of the records; for an answer without records the
// SOA's word on negative answers (RFC 2308), and without that it is not kept.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated {
		return 0
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeServerFailure:
		return failureTTL
	default:
		return 0
	}
	least := uint32(maxTTL / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			least = min(least, rr.Header().Ttl)
		}
	}
	if len(m.Answer) > 0 {
		return time.Duration(least) * time.Second
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(least, soa.Minttl))*time.Second, maxNegativeTTL)
		}
	}
	return 0
}
