// Package http2 serves HTTP/2 (RFC 9113) on the TLS connections that a server of net/http has accepted, to that
// server's handler.
//
// net/http's own HTTP/2 passes a request through four goroutines: frames are read by one, sorted by another, which
// starts a third for the handler and a fourth for each write. On a quiet machine each step wakes a thread, and
// a watch pays for all of them with each event. Here one goroutine reads a connection; a handler runs in one that has
// worked before (internal/crew) and writes its frames to the connection itself. Whoever comes while somebody writes
// leaves his frames to be taken along, so that a busy connection is written to in large pieces
// (docs/design/0008-http2.md).
//
// Not served, because nobody uses it: pushes, priorities, and connections without TLS.
package http2

import (
	"crypto/tls"
	"log"
	"net/http"
	"sync"
	"time"

	"skiff.dev/skiff/internal/crew"
)

// Options bound what one connection may ask for.
type Options struct {
	Streams   int           // requests at a time
	Header    int           // bytes of a request's header fields, counted as in RFC 9113, 6.5.2
	Idle      time.Duration // a connection without requests is closed after so long
	PingAfter time.Duration // one that says nothing is asked after so long,
	PingWait  time.Duration // and closed if it has not answered after so long
}

// Enable has srv, which does not serve yet, speak HTTP/2 to clients that ask for it in their TLS handshake. Shutdown
// of srv lets requests under way finish.
func Enable(srv *http.Server, o Options) {
	s := &server{Options: o, log: srv.ErrorLog, conns: map[*conn]struct{}{}}
	if s.log == nil {
		s.log = log.Default()
	}
	srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": s.serve}
	srv.RegisterOnShutdown(s.shutdown)
}

// server is what the connections of one http.Server have in common.
type server struct {
	Options
	log *log.Logger

	mu      sync.Mutex
	conns   map[*conn]struct{}
	crew    *crew.Crew // runs handlers while there are connections
	leaving bool
}

// serve serves a connection until it ends; net/http closes it then.
func (s *server) serve(_ *http.Server, t *tls.Conn, h http.Handler) {
	c := newConn(s, t, h)
	s.mu.Lock()
	if s.conns[c] = struct{}{}; s.crew == nil {
		s.crew = &crew.Crew{}
	}
	c.crew = s.crew
	leaving := s.leaving
	s.mu.Unlock()
	defer s.forget(c)
	if leaving {
		c.leave()
	}
	c.serve()
}

// forget forgets a connection; the last one takes along the goroutines that wait for work.
func (s *server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.conns, c); len(s.conns) == 0 {
		s.crew.Dismiss()
		s.crew = nil
	}
}

// shutdown has all clients go elsewhere with their next request.
func (s *server) shutdown() {
	s.mu.Lock()
	s.leaving = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.leave()
	}
}
