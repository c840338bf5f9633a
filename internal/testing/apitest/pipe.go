package apitest

import (
	"context"
	"net"
	"sync"
	"testing"
)

// StartPipe serves HTTPS with HTTP/2 as StartTLS does, but over connections in
// memory: a network in which a bubble of testing/synctest can have its own time.
func StartPipe(t testing.TB, change ...Config) *API {
	t.Helper()
	a := start(t, change)
	a.HTTP = a.unstarted()
	if err := a.HTTP.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	pipes := &pipes{made: make(chan net.Conn), closed: make(chan struct{})}
	a.HTTP.Listener, a.dial = pipes, pipes.dial
	a.HTTP.EnableHTTP2 = true
	a.HTTP.StartTLS()
	t.Cleanup(a.HTTP.Close)
	return a
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.made <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.made:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error {
	p.close.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener; the certificate of httptest is valid for it.
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }
