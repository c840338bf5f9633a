// Package dns is the cluster's DNS, on every node: it answers for the
// cluster's domain by the Kubernetes DNS specification 1.1.0, straight from
// the shared cache of Services and EndpointSlices, and forwards everything
// else to the host's resolvers, keeping their answers.
//
// It reads its Source and the resolvers it is given. It writes nothing but
// answers; Bind puts the addresses it listens on on the loopback.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Config is what a Server is made of.
type Config struct {
	Source Source
	// Domain is the cluster's, such as cluster.local.
	Domain string
	// Addresses are where the server listens, over UDP and TCP. Port 0 is
	// replaced by one that is free for both.
	Addresses []netip.AddrPort
	// Upstreams are the host's resolvers, as host:port. Without any, only the
	// cluster's names are answered.
	Upstreams []string
	// TTL of the cluster's records; 0 means 5 s.
	TTL time.Duration
	// CacheSize bounds the answers kept, in entries; 0 means 10,000.
	CacheSize int
	// Observe is called after each answer; nil for nobody.
	Observe func(Query)
	Log     *slog.Logger
	// Exchange asks upstreams; nil means over the network.
	Exchange Exchange
}

// Query is what there is to tell about one question and its answer, for
// metrics.
type Query struct {
	Network  string // udp or tcp
	Client   netip.Addr
	Type     uint16
	Rcode    int
	Cluster  bool // the name is the cluster's
	CacheHit bool
	Duration time.Duration
}

const (
	defaultTTL       = 5 * time.Second
	defaultCacheSize = 10_000
	// maxChase bounds the length of CNAME chains inside the cluster.
	maxChase = 8
	// maxTCP bounds the TCP connections open at once.
	maxTCP = 256
)

// Server is the DNS server of a node.
type Server struct {
	cfg     Config
	zone    *zone
	forward *forwarder

	mu    sync.Mutex
	probe map[string]string // name of a loop probe: its upstream
}

// New returns a Server. Run runs it.
func New(cfg Config) (*Server, error) {
	domain := dns.CanonicalName(cfg.Domain)
	if _, ok := dns.IsDomainName(domain); !ok || domain == "." {
		return nil, fmt.Errorf("%q is no domain", cfg.Domain)
	}
	if cfg.TTL == 0 {
		cfg.TTL = defaultTTL
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	if cfg.Exchange == nil {
		cfg.Exchange = exchange
	}
	s := &Server{
		cfg:     cfg,
		zone:    &zone{domain: domain, ttl: uint32(cfg.TTL / time.Second), src: cfg.Source},
		forward: newForwarder(cfg.Exchange, cfg.CacheSize),
		probe:   map[string]string{},
	}
	for _, a := range cfg.Addresses {
		s.zone.addrs = append(s.zone.addrs, a.Addr())
	}
	s.forward.set(s.notSelf(cfg.Upstreams))
	return s, nil
}

// notSelf leaves out the upstreams that are the server itself.
func (s *Server) notSelf(upstreams []string) []string {
	return slices.DeleteFunc(slices.Clone(upstreams), func(u string) bool {
		a, err := netip.ParseAddrPort(u)
		return err == nil && slices.Contains(s.cfg.Addresses, a)
	})
}

// Listeners are the sockets of a Server.
type Listeners struct {
	packets []net.PacketConn
	streams []net.Listener
}

// Listen opens the sockets in the network namespace of the calling thread.
func Listen(addresses []netip.AddrPort) (*Listeners, error) {
	l := &Listeners{}
	for _, a := range addresses {
		p, err := net.ListenPacket("udp", a.String())
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("listening on %s: %w", a, err)
		}
		l.packets = append(l.packets, p)
		t, err := net.Listen("tcp", p.LocalAddr().String())
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("listening on %s: %w", a, err)
		}
		l.streams = append(l.streams, &bounded{Listener: t, room: make(chan struct{}, maxTCP)})
	}
	return l, nil
}

// Addresses returns where the sockets listen.
func (l *Listeners) Addresses() []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range l.packets {
		out = append(out, p.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	return out
}

// Close closes the sockets.
func (l *Listeners) Close() {
	for _, p := range l.packets {
		p.Close() // nothing is lost with a question
	}
	for _, t := range l.streams {
		t.Close()
	}
}

// bounded accepts no more connections than it has room for.
type bounded struct {
	net.Listener
	room chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	b.room <- struct{}{}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.room
		return nil, err
	}
	return &roomy{Conn: c, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

type roomy struct {
	net.Conn
	leave func()
}

func (r *roomy) Close() error {
	r.leave()
	return r.Conn.Close()
}

// Run serves until ctx ends, and closes the sockets.
func (s *Server) Run(ctx context.Context, l *Listeners) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var servers []*dns.Server
	for _, p := range l.packets {
		servers = append(servers, &dns.Server{PacketConn: p, UDPSize: ednsSize})
	}
	for _, t := range l.streams {
		servers = append(servers, &dns.Server{Listener: t, MaxTCPQueries: 128, IdleTimeout: func() time.Duration { return 10 * time.Second }})
	}
	failed := make(chan error, len(servers))
	var started, done sync.WaitGroup
	for _, srv := range servers {
		srv.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { s.serve(ctx, w, m) })
		started.Add(1)
		srv.NotifyStartedFunc = sync.OnceFunc(started.Done)
		done.Go(func() {
			err := srv.ActivateAndServe()
			srv.NotifyStartedFunc() // if it never came so far
			if err != nil {
				failed <- err
			}
		})
	}
	started.Wait()
	done.Go(func() { s.findLoops(ctx) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serving DNS: %w", err)
	}
	cancel()
	for _, srv := range servers {
		srv.Shutdown() // fails only where it had not started
	}
	l.Close()
	done.Wait()
	return err
}

// serve answers one message.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, req *dns.Msg) {
	start := time.Now()
	local := w.LocalAddr().Network()
	m, query := s.answer(ctx, req)
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), ednsSize)
		m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
		m.SetEdns0(ednsSize, opt.Do())
	}
	if local == "tcp" {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Log.Debug("Could not answer", "client", w.RemoteAddr().String(), "err", err)
	}
	if s.cfg.Observe != nil {
		query.Network, query.Duration, query.Rcode = local, time.Since(start), m.Rcode
		if a, err := netip.ParseAddrPort(w.RemoteAddr().String()); err == nil {
			query.Client = a.Addr()
		}
		s.cfg.Observe(query)
	}
}

// answer makes the answer to a message.
func (s *Server) answer(ctx context.Context, req *dns.Msg) (*dns.Msg, Query) {
	m := &dns.Msg{}
	m.SetReply(req)
	m.RecursionAvailable = true
	if len(req.Question) != 1 || req.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return m, Query{}
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		m.Rcode = dns.RcodeBadVers
		return m, Query{}
	}
	q := req.Question[0]
	query := Query{Type: q.Qtype}
	name := dns.CanonicalName(q.Name)
	if q.Qclass == dns.ClassINET || q.Qclass == dns.ClassANY {
		if r, ok := s.cluster(name, q.Qtype); ok {
			query.Cluster = true
			s.fill(ctx, m, q, r)
			return m, query
		}
	}
	if s.isProbe(name) {
		m.Rcode = dns.RcodeRefused
		return m, query
	}
	opt := req.IsEdns0()
	r, hit := s.forward.resolve(ctx, q, opt != nil && opt.Do(), req.CheckingDisabled)
	query.CacheHit = hit
	m.Rcode, m.Answer, m.Ns, m.Extra = r.Rcode, r.Answer, r.Ns, r.Extra
	m.AuthenticatedData = r.AuthenticatedData
	return m, query
}

// cluster answers for the cluster's names; ok is false for others.
func (s *Server) cluster(name string, qtype uint16) (reply, bool) {
	if dns.IsSubDomain(s.zone.domain, name) {
		return s.zone.answer(name, qtype), true
	}
	if (qtype == dns.TypePTR || qtype == dns.TypeANY) && strings.HasSuffix(name, ".arpa.") {
		return s.zone.reverse(name)
	}
	return reply{}, false
}

// fill puts a reply of the zone into the message, following the CNAME that it
// may end in.
func (s *Server) fill(ctx context.Context, m *dns.Msg, q dns.Question, r reply) {
	m.Authoritative = true
	m.Rcode, m.Answer, m.Extra = r.rcode, r.answer, r.extra
	seen := map[string]bool{dns.CanonicalName(q.Name): true}
	for range maxChase {
		if r.chase == "" || seen[r.chase] {
			break
		}
		seen[r.chase] = true
		next, ok := s.cluster(r.chase, q.Qtype)
		if !ok {
			up, _ := s.forward.resolve(ctx, dns.Question{Name: r.chase, Qtype: q.Qtype, Qclass: q.Qclass}, false, false)
			m.Answer = append(m.Answer, up.Answer...)
			break
		}
		m.Answer = append(m.Answer, next.answer...)
		r = next
	}
	if len(m.Answer) == 0 && (m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError) {
		m.Ns = []dns.RR{s.zone.soa()}
	}
	// Answer in the case that was asked in (RFC 4343; some clients check).
	for _, rr := range m.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, q.Name) {
			h.Name = q.Name
		}
	}
}

// SetUpstreams replaces the host's resolvers and looks for loops among them,
// until ctx ends.
func (s *Server) SetUpstreams(ctx context.Context, upstreams []string) {
	s.forward.set(s.notSelf(upstreams))
	s.findLoops(ctx)
}

// findLoops asks each upstream for a name nobody can know. If the question
// comes back here, the upstream forwards to us: a host whose resolv.conf names
// its own resolver, which was told to ask the cluster. Used, it would send
// each question round until something breaks.
func (s *Server) findLoops(ctx context.Context) {
	for _, u := range s.forward.list() {
		name := fmt.Sprintf("%d.%d.skiff-loop.invalid.", rand.Uint64(), rand.Uint64())
		s.mu.Lock()
		s.probe[name] = u
		s.mu.Unlock()
		m := &dns.Msg{}
		m.SetQuestion(name, dns.TypeHINFO)
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		_, err := s.cfg.Exchange(ctx, "udp", u, m)
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			s.cfg.Log.Debug("Upstream resolver does not answer", "upstream", u, "err", err)
		}
		s.mu.Lock()
		delete(s.probe, name)
		s.mu.Unlock()
	}
}

// isProbe reports whether a name is one of ours, and drops the upstream that
// sent it back.
func (s *Server) isProbe(name string) bool {
	if !strings.HasSuffix(name, ".skiff-loop.invalid.") {
		return false
	}
	s.mu.Lock()
	upstream, ok := s.probe[name]
	s.mu.Unlock()
	if ok {
		s.cfg.Log.Error("Upstream resolver forwards to the cluster's DNS and is not used", "upstream", upstream)
		s.forward.drop(upstream)
	}
	return ok
}
