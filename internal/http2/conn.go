package http2

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"skiff.dev/skiff/internal/crew"
)

const (
	// received is how many bytes of requests' bodies a client may send ahead, on a stream and on a connection.
	received = 1 << 20
	// settingsWait is how long a client may take to begin.
	settingsWait = 10 * time.Second
	// lingerFor is how long a connection with an error is read on, so that the client gets to read of the error.
	lingerFor = 500 * time.Millisecond
	// largest is the largest frame that is sent, if the client takes such.
	largest = full
	// standard is the window, and the length of a frame, where nothing else was said.
	standardWindow, standardFrame = 65535, 16384
	tableSize                     = 4096 // of header fields that were sent, on both sides
)

// conn is a connection.
type conn struct {
	server  *server
	crew    *crew.Crew
	tls     *tls.Conn
	state   *tls.ConnectionState
	handler http.Handler
	base    context.Context // of requests
	peer    string
	reader  *bufio.Reader
	framer  *xhttp2.Framer // reads
	watch   *time.Timer    // see look

	mu       sync.Mutex // guards what follows
	streams  map[uint32]*stream
	highest  uint32 // stream of the client's
	running  int    // handlers
	window   int64  // bytes that the client still takes
	initial  int64  // window of a new stream
	maxFrame int    // length that is sent
	credit   credit // bytes that the client may still send
	leaving  bool   // it has been told to use another connection
	dead     error  // why nothing can be written any more
	pending  *[]byte
	flushing bool
	patience time.Duration // how long a write may take
	settled  sync.Cond     // flushing has ended
	blocked  map[*stream]struct{}
	encoder  *hpack.Encoder
	block    bytes.Buffer // what encoder writes
	read     uint64       // frames
	seen     uint64       // of them when look looked
	asked    bool         // by a PING
	busy     time.Time    // when the last stream ended
}

func newConn(s *server, t *tls.Conn, h http.Handler) *conn {
	c := &conn{
		server: s, tls: t, handler: h, base: context.Background(), peer: t.RemoteAddr().String(), reader: bufio.NewReader(t),
		streams: map[uint32]*stream{}, blocked: map[*stream]struct{}{}, busy: time.Now(),
		window: standardWindow, initial: standardWindow, maxFrame: standardFrame, patience: writeWait, credit: credit{left: received},
	}
	if b, ok := h.(interface{ BaseContext() context.Context }); ok { // as net/http has it for other protocols
		c.base = b.BaseContext()
	}
	c.settled.L = &c.mu
	state := t.ConnectionState()
	c.state = &state
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer = xhttp2.NewFramer(io.Discard, c.reader)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(standardFrame)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	c.framer.MaxHeaderListSize = uint32(s.Header)
	return c
}

// serve reads frames until the connection ends.
func (c *conn) serve() {
	err := c.greet()
	if err == nil {
		c.mu.Lock()
		c.watch = time.AfterFunc(c.server.PingAfter, c.look)
		c.mu.Unlock()
		defer c.watch.Stop()
		err = c.readFrames()
	}
	c.end(err)
}

// greet exchanges what begins a connection.
func (c *conn) greet() error {
	if err := c.tls.SetReadDeadline(time.Now().Add(settingsWait)); err != nil {
		return err
	}
	preface := make([]byte, len(xhttp2.ClientPreface))
	if _, err := io.ReadFull(c.reader, preface); err != nil {
		return err
	}
	if string(preface) != xhttp2.ClientPreface {
		return xhttp2.ConnectionError(xhttp2.ErrCodeProtocol)
	}
	var settings []byte
	for _, s := range []xhttp2.Setting{
		{ID: xhttp2.SettingMaxConcurrentStreams, Val: uint32(c.server.Streams)},
		{ID: xhttp2.SettingMaxHeaderListSize, Val: uint32(c.server.Header)},
		{ID: xhttp2.SettingInitialWindowSize, Val: received},
	} {
		settings = append(settings, byte(s.ID>>8), byte(s.ID), byte(s.Val>>24), byte(s.Val>>16), byte(s.Val>>8), byte(s.Val))
	}
	c.mu.Lock()
	c.frame(xhttp2.FrameSettings, 0, 0, settings)
	c.number(xhttp2.FrameWindowUpdate, 0, received-standardWindow)
	c.flushSoon()
	c.mu.Unlock()
	if f, err := c.framer.ReadFrame(); err != nil {
		return err
	} else if s, ok := f.(*xhttp2.SettingsFrame); !ok || s.IsAck() {
		return xhttp2.ConnectionError(xhttp2.ErrCodeProtocol)
	} else if err := c.take(s); err != nil {
		return err
	}
	c.answer()
	return c.tls.SetReadDeadline(time.Time{})
}

// errDone ends a connection that has no more to do.
var errDone = errors.New("the connection is closed")

func (c *conn) readFrames() error {
	for {
		f, err := c.framer.ReadFrame()
		var bad xhttp2.StreamError
		switch {
		case err == nil:
			err = c.take(f)
		case errors.As(err, &bad):
			c.mu.Lock()
			err = c.malformed(bad.StreamID)
			c.mu.Unlock()
			if err == nil {
				err = bad
			}
		}
		if errors.As(err, &bad) {
			c.mu.Lock()
			c.reset(bad.StreamID, bad.Code)
			c.mu.Unlock()
		} else if err != nil {
			return err
		}
		if c.reader.Buffered() < frameHeader { // else more is to be said soon
			c.answer()
		}
	}
}

// answer has written what the reader has to say. It does not wait for that: the client may do the same.
func (c *conn) answer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushSoon()
}

// take takes a frame. Its error is a StreamError, or ends the connection.
func (c *conn) take(f xhttp2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read++
	c.asked = false
	if c.waiting() > flooded {
		return xhttp2.ConnectionError(xhttp2.ErrCodeEnhanceYourCalm)
	}
	switch f := f.(type) {
	case *xhttp2.MetaHeadersFrame:
		return c.request(f)
	case *xhttp2.DataFrame:
		return c.body(f)
	case *xhttp2.WindowUpdateFrame:
		return c.widen(f.StreamID, int64(f.Increment))
	case *xhttp2.RSTStreamFrame:
		if f.StreamID > c.highest {
			return c.unheard()
		}
		if s := c.streams[f.StreamID]; s != nil {
			s.close(xhttp2.StreamError{StreamID: f.StreamID, Code: f.ErrCode})
		}
	case *xhttp2.SettingsFrame:
		return c.settings(f)
	case *xhttp2.PingFrame:
		if !f.IsAck() {
			c.frame(xhttp2.FramePing, xhttp2.FlagPingAck, 0, f.Data[:])
		}
	case *xhttp2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return xhttp2.StreamError{StreamID: f.StreamID, Code: xhttp2.ErrCodeProtocol}
		}
	case *xhttp2.PushPromiseFrame:
		return xhttp2.ConnectionError(xhttp2.ErrCodeProtocol)
	}
	return nil // GOAWAY, and what is not known
}

// settings takes the client's settings, or its acknowledgement of ours. c.mu is held.
func (c *conn) settings(f *xhttp2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	initial := c.initial
	err := f.ForeachSetting(func(s xhttp2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case xhttp2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSize(min(s.Val, tableSize))
		case xhttp2.SettingMaxFrameSize:
			c.maxFrame = min(int(s.Val), largest)
		case xhttp2.SettingInitialWindowSize:
			initial = int64(s.Val)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.frame(xhttp2.FrameSettings, xhttp2.FlagSettingsAck, 0, nil)
	return c.resize(initial)
}

// resize sets the window of new streams and changes that of the others by as much. c.mu is held.
func (c *conn) resize(initial int64) error {
	by := initial - c.initial
	if c.initial = initial; by == 0 {
		return nil
	}
	for _, s := range c.streams {
		if s.window += by; s.window > 1<<31-1 {
			return xhttp2.ConnectionError(xhttp2.ErrCodeFlowControl)
		}
		s.changed.Broadcast()
	}
	return nil
}

// widen lets more be sent.
func (c *conn) widen(id uint32, by int64) error {
	if id == 0 {
		if c.window += by; c.window > 1<<31-1 {
			return xhttp2.ConnectionError(xhttp2.ErrCodeFlowControl)
		}
		c.wakeBlocked()
		return nil
	}
	s := c.streams[id]
	switch {
	case id > c.highest:
		return c.unheard()
	case s == nil: // ended a moment ago
		return nil
	case s.window+by > 1<<31-1:
		return xhttp2.StreamError{StreamID: id, Code: xhttp2.ErrCodeFlowControl}
	}
	s.window += by
	s.changed.Broadcast()
	return nil
}

// unheard tells what a frame of a stream means that has not begun: nothing where it would have been ignored.
func (c *conn) unheard() error {
	if c.leaving {
		return nil
	}
	return xhttp2.ConnectionError(xhttp2.ErrCodeProtocol)
}

// malformed tells what a HEADERS frame that cannot be read means for the connection: its stream has been used.
func (c *conn) malformed(id uint32) error {
	if id > c.highest && id%2 == 1 {
		c.highest = id
	}
	if id > c.highest {
		return xhttp2.ConnectionError(xhttp2.ErrCodeProtocol)
	}
	return nil
}

// reset ends a stream, that there may not be any more, with an error. c.mu is held.
func (c *conn) reset(id uint32, code xhttp2.ErrCode) {
	c.number(xhttp2.FrameRSTStream, id, uint32(code))
	if s := c.streams[id]; s != nil {
		s.close(xhttp2.StreamError{StreamID: id, Code: code})
	}
}

// leave has the client use another connection for its next request, and ends this one with the last under way.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leaving {
		c.goAway(xhttp2.ErrCodeNo)
		c.flushSoon()
	}
	c.rest()
}

// rest ends a connection that is to end when it has no streams. c.mu is held.
func (c *conn) rest() {
	if c.leaving && len(c.streams) == 0 {
		_ = c.tls.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; fails only where that has ended
	}
}

// look comes now and then: it ends connections without streams, and asks silent clients whether they are there.
func (c *conn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.server.PingAfter
	switch {
	case c.dead != nil:
		return
	case len(c.streams) == 0 && time.Since(c.busy) >= c.server.Idle:
		if !c.leaving {
			c.goAway(xhttp2.ErrCodeNo)
		}
		c.rest()
	case c.read != c.seen:
	case c.asked:
		c.die(fmt.Errorf("%s does not answer", c.peer))
		_ = c.tls.NetConn().Close() // what matters is that the reader returns
		return
	default:
		c.asked = true
		c.frame(xhttp2.FramePing, 0, 0, make([]byte, 8))
		next = c.server.PingWait
	}
	c.seen = c.read
	c.watch.Reset(next)
	c.flushSoon()
}

// die ends all streams: nothing can be written any more. c.mu is held.
func (c *conn) die(err error) {
	if c.dead != nil {
		return
	}
	c.dead = err
	for _, s := range c.streams {
		s.close(err)
	}
	c.pending = nil
	_ = c.tls.SetReadDeadline(time.Unix(1, 0)) // as in rest
}

// end says goodbye and why, if it was the client's doing, and ends all streams.
func (c *conn) end(err error) {
	var code xhttp2.ConnectionError
	c.mu.Lock()
	bad := errors.As(err, &code) || errors.Is(err, xhttp2.ErrFrameTooLarge)
	if errors.Is(err, xhttp2.ErrFrameTooLarge) {
		code = xhttp2.ConnectionError(xhttp2.ErrCodeFrameSize)
	}
	if bad {
		c.goAway(xhttp2.ErrCode(code))
		c.patience = lingerFor
		_ = c.tls.SetWriteDeadline(time.Now().Add(lingerFor)) // of a write that goes on; fails only where there is none
	}
	c.flush()
	for c.flushing {
		c.settled.Wait()
	}
	c.die(errDone)
	c.mu.Unlock()
	if !bad {
		return
	}
	c.server.log.Printf("http2: %s: %v", c.peer, err)
	// To close a connection of which not all has been read could keep the reason from the client.
	if c.tls.CloseWrite() == nil && c.tls.SetReadDeadline(time.Now().Add(lingerFor)) == nil {
		_, _ = io.CopyN(io.Discard, c.tls.NetConn(), 1<<20) // as far as it goes
	}
}
