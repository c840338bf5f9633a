package http2_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client speaks frames.
type client struct {
	*xhttp2.Framer
	t     testing.TB
	conn  *tls.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
}

func dial(t testing.TB, s *httptest.Server, settings ...xhttp2.Setting) *client {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &client{Framer: xhttp2.NewFramer(conn, conn), t: t, conn: conn}
	c.enc = hpack.NewEncoder(&c.block)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, xhttp2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *client) get(id uint32) error {
	c.block.Reset()
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: "/"}} {
		if err := c.enc.WriteField(f); err != nil {
			return err
		}
	}
	return c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: true, EndHeaders: true})
}

// next returns the next frame of one of the types.
func (c *client) next(types ...xhttp2.FrameType) xhttp2.Frame {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			c.t.Fatalf("no frame of %v: %v", types, err)
		}
		for _, t := range types {
			if f.Header().Type == t {
				return f
			}
		}
	}
}

// TestWindows: no more is sent than the client takes, on the stream and on the connection.
func TestWindows(t *testing.T) {
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) { w.Write(bytes.Repeat([]byte("x"), 70_000)) })
	c := dial(t, s, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 10})
	if err := c.get(1); err != nil {
		t.Fatal(err)
	}
	data := func() (n int) { return len(c.next(xhttp2.FrameData).(*xhttp2.DataFrame).Data()) }
	if n := data(); n != 10 {
		t.Errorf("%d bytes, where the stream takes 10", n)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.WriteWindowUpdate(1, 5))
	if n := data(); n != 5 {
		t.Errorf("%d bytes, where the stream takes 5", n)
	}
	must(c.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 13})) // which the stream gets as well
	if n := data(); n != 3 {
		t.Errorf("%d bytes, where the stream takes 3 more", n)
	}
	must(c.WriteWindowUpdate(1, 1_000_000))
	got := 18
	for got < 65535 {
		got += data()
	}
	if got != 65535 {
		t.Errorf("%d bytes, where the connection takes 65535", got)
	}
	must(c.WriteWindowUpdate(0, 1_000_000))
	for got < 70_000 {
		got += data()
	}
	if got != 70_000 {
		t.Errorf("%d bytes of 70000", got)
	}
}

// TestWindowBelowZero: settings can take back what a stream was allowed, and an end that carries nothing needs no room.
func TestWindowBelowZero(t *testing.T) {
	finish := make(chan struct{})
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), 100))
		w.(http.Flusher).Flush()
		<-finish
	})
	c := dial(t, s, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 100})
	if err := c.get(1); err != nil {
		t.Fatal(err)
	}
	c.next(xhttp2.FrameData)
	if err := c.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1}); err != nil {
		t.Fatal(err)
	}
	for !c.next(xhttp2.FrameSettings).(*xhttp2.SettingsFrame).IsAck() {
	}
	close(finish)
	if f := c.next(xhttp2.FrameData).(*xhttp2.DataFrame); !f.StreamEnded() || len(f.Data()) != 0 {
		t.Errorf("%v, want the end", f)
	}
}

// TestResets: who resets requests does not get more handlers at work than somebody who waits for answers.
func TestResets(t *testing.T) {
	var running, most atomic.Int64
	release := make(chan struct{})
	o := options
	o.Streams = 10
	s := start(t, o, func(w http.ResponseWriter, r *http.Request) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		<-release // whatever comes of its request
	})
	c := dial(t, s)
	for i := range uint32(1000) {
		if c.get(2*i+1) != nil || c.WriteRSTStream(2*i+1, xhttp2.ErrCodeCancel) != nil {
			break
		}
	}
	if err := c.WritePing(false, [8]byte{1}); err != nil {
		t.Fatal(err)
	}
	for !c.next(xhttp2.FramePing).(*xhttp2.PingFrame).IsAck() {
	}
	close(release)
	if most.Load() > 20 {
		t.Errorf("%d handlers at work, where 10 requests are allowed", most.Load())
	}
}

// TestFlood: a client that makes the server answer and does not read the answers is given up.
func TestFlood(t *testing.T) {
	s := start(t, options, func(http.ResponseWriter, *http.Request) {})
	c := dial(t, s)
	const most = 100 << 20 / 17
	for i := 0; ; i++ {
		if err := c.WritePing(false, [8]byte{}); err != nil {
			break
		}
		if i > most {
			t.Fatal("100 MiB of unread answers")
		}
	}
}

// TestSilence: connections of clients that do not answer, and of those that ask for nothing, end.
func TestSilence(t *testing.T) {
	o := options
	o.PingAfter, o.PingWait = 20*time.Millisecond, 20*time.Millisecond
	s := start(t, o, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := dial(t, s)
	if err := c.get(1); err != nil {
		t.Fatal(err)
	}
	c.next(xhttp2.FramePing)
	for {
		if _, err := c.ReadFrame(); err != nil {
			break // as it should: the PING was not answered
		}
	}

	o = options
	o.PingAfter, o.PingWait, o.Idle = 20*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
	c = dial(t, start(t, o, func(http.ResponseWriter, *http.Request) {}))
	if err := c.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	if f := c.next(xhttp2.FrameGoAway).(*xhttp2.GoAwayFrame); f.ErrCode != xhttp2.ErrCodeNo {
		t.Error(f)
	}
	if _, err := c.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("after GOAWAY: %v", err)
	}
}

// FuzzFrames sends what a client may not. Whatever it is, the server answers others.
func FuzzFrames(f *testing.F) {
	for _, seed := range [][]byte{
		{0, 0, 0, 4, 0, 0, 0, 0, 0}, {0, 0, 1, 0, 0, 0, 0, 0, 1, 'x'}, {0, 0, 1, 1, 5, 0, 0, 0, 1, 0x82},
		{0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff}, {0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0}, {0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0},
		{0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x87, 0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 0},
	} {
		f.Add(seed)
	}
	s := start(f, options, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	f.Fuzz(func(t *testing.T, frames []byte) {
		c := dial(t, s)
		if _, err := c.conn.Write(frames); err != nil {
			return // it had enough
		}
		if err := c.conn.CloseWrite(); err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, c.conn); err != nil {
			var netErr interface{ Timeout() bool }
			if errors.As(err, &netErr) && netErr.Timeout() {
				t.Errorf("the connection does not end: %v", err)
			}
		}
	})
}
