package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// Bounds of what is asked of others.
const (
	// attemptTimeout is how long one upstream has to answer.
	attemptTimeout = 2 * time.Second
	// maxInFlight bounds the questions asked at once; more are refused.
	maxInFlight = 1000
	// ednsSize is what we take over UDP: more may be lost in fragments
	// (DNS flag day 2020).
	ednsSize = 1232
)

// Exchange asks one upstream, over "udp" or "tcp".
type Exchange func(ctx context.Context, network, upstream string, m *dns.Msg) (*dns.Msg, error)

// forwarder resolves names that are not the cluster's, by the host's
// resolvers.
type forwarder struct {
	exchange Exchange
	cache    *cache
	now      func() time.Time
	flights  singleflight.Group
	inFlight chan struct{}

	mu        sync.RWMutex
	upstreams []string // host:port
	preferred atomic.Uint32
}

func newForwarder(exchange Exchange, size int) *forwarder {
	return &forwarder{exchange: exchange, cache: newCache(size), now: time.Now, inFlight: make(chan struct{}, maxInFlight)}
}

// exchange asks over a socket of its own, so that each question has a source
// port nobody can guess.
func exchange(ctx context.Context, network, upstream string, m *dns.Msg) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: attemptTimeout, UDPSize: ednsSize}
	r, _, err := c.ExchangeContext(ctx, m, upstream)
	return r, err
}

func (f *forwarder) set(upstreams []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.upstreams = slices.Clone(upstreams)
}

// drop removes an upstream that leads back to us.
func (f *forwarder) drop(upstream string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.upstreams = slices.DeleteFunc(slices.Clone(f.upstreams), func(u string) bool { return u == upstream })
}

func (f *forwarder) list() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.upstreams
}

// resolve answers a question, from the cache if it can. The answer is the
// caller's to change. Without one it is SERVFAIL.
func (f *forwarder) resolve(ctx context.Context, q dns.Question, do, cd bool) (m *dns.Msg, hit bool) {
	key := question{name: dns.CanonicalName(q.Name), qtype: q.Qtype, qclass: q.Qclass, do: do, cd: cd}
	if m := f.cache.get(key, f.now()); m != nil {
		return m, true
	}
	v, err, _ := f.flights.Do(fmt.Sprintf("%s/%d/%d/%t/%t", key.name, key.qtype, key.qclass, do, cd), func() (any, error) {
		// The question outlives whoever asked first: others may wait for it.
		return f.ask(context.WithoutCancel(ctx), key)
	})
	if err != nil {
		m := &dns.Msg{}
		m.Rcode = dns.RcodeServerFailure
		if errors.Is(err, errBusy) {
			m.Rcode = dns.RcodeRefused
		}
		return m, false
	}
	return v.(*dns.Msg).Copy(), false
}

var (
	errBusy        = errors.New("too many questions in flight")
	errNoUpstreams = errors.New("no upstream resolvers")
)

// ask asks the upstreams in turn, beginning with the one that answered last.
func (f *forwarder) ask(ctx context.Context, key question) (*dns.Msg, error) {
	select {
	case f.inFlight <- struct{}{}:
		defer func() { <-f.inFlight }()
	default:
		return nil, errBusy
	}
	upstreams := f.list()
	if len(upstreams) == 0 {
		return nil, errNoUpstreams
	}
	m := &dns.Msg{}
	m.SetQuestion(key.name, key.qtype)
	m.Question[0].Qclass = key.qclass
	m.CheckingDisabled = key.cd
	m.SetEdns0(ednsSize, key.do)
	var failed *dns.Msg
	var errs []error
	first := f.preferred.Load()
	for i := range upstreams {
		n := (first + uint32(i)) % uint32(len(upstreams))
		r, err := f.attempt(ctx, upstreams[n], m)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("asking %s: %w", upstreams[n], err))
			continue
		case r.Rcode == dns.RcodeServerFailure || r.Rcode == dns.RcodeRefused:
			failed = r
			continue
		}
		f.preferred.Store(n)
		f.cache.put(key, r, f.now())
		return r, nil
	}
	if failed != nil {
		f.cache.put(key, failed, f.now())
		return failed, nil
	}
	return nil, errors.Join(errs...)
}

// attempt asks over UDP, and over TCP what did not fit.
func (f *forwarder) attempt(ctx context.Context, upstream string, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*attemptTimeout)
	defer cancel()
	r, err := f.exchange(ctx, "udp", upstream, m.Copy())
	if err == nil && r.Truncated {
		r, err = f.exchange(ctx, "tcp", upstream, m.Copy())
	}
	if err != nil {
		return nil, err
	}
	if len(r.Question) != 1 || !r.Response || dns.CanonicalName(r.Question[0].Name) != m.Question[0].Name || r.Question[0].Qtype != m.Question[0].Qtype {
		return nil, errors.New("the answer is to another question")
	}
	return r, nil
}

// Upstreams reads the resolvers from a resolv.conf, as host:port.
func Upstreams(path string) ([]string, error) {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading resolvers: %w", err)
	}
	var out []string
	for _, s := range c.Servers {
		out = append(out, net.JoinHostPort(s, c.Port))
	}
	return out, nil
}
