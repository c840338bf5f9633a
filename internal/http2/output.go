package http2

import (
	"encoding/binary"
	"runtime"
	"sync"
	"time"

	xhttp2 "golang.org/x/net/http2"
)

const (
	frameHeader = 9
	// full is how many bytes may wait to be written to a connection until those who add to them wait, too.
	full = 64 << 10
	// flooded is how many bytes of answers to the client's own frames may wait; it does not read them.
	flooded = 256 << 10
	// rounds is how often a writer writes on for others before it leaves that to a goroutine.
	rounds = 4
	// crowd is from how many streams on a connection somebody else's frames are worth waiting for.
	crowd = 4
	// writeWait is how long a connection may take for one write of at most about full bytes.
	writeWait = 30 * time.Second
)

// buffers are for frames that wait to be written; a quiet connection has none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// frame adds a frame to what is to be written. c.mu is held.
func (c *conn) frame(t xhttp2.FrameType, flags xhttp2.Flags, id uint32, payload []byte) {
	if c.dead != nil {
		return
	}
	if c.pending == nil {
		c.pending = buffers.Get().(*[]byte)
	}
	n := len(payload)
	b := append(*c.pending, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags))
	b = binary.BigEndian.AppendUint32(b, id)
	*c.pending = append(b, payload...)
}

func (c *conn) waiting() int {
	if c.pending == nil {
		return 0
	}
	return len(*c.pending)
}

// flush writes what waits, unless somebody is at it who will. c.mu is held, but not while it writes.
func (c *conn) flush() {
	if c.flushing {
		return
	}
	c.flushing = true
	for range rounds {
		if !c.write() {
			c.settle()
			return
		}
	}
	go c.carryOn() // the caller has a request to answer
}

// carryOn writes until nothing waits.
func (c *conn) carryOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.write() {
	}
	c.settle()
}

func (c *conn) settle() {
	c.flushing = false
	c.settled.Broadcast()
}

// flushSoon is flush for those who must not wait for the client.
func (c *conn) flushSoon() {
	if c.pending != nil && !c.flushing {
		c.flushing = true
		go c.carryOn()
	}
}

// write writes what waits, and tells whether there was anything. c.mu is held, but not while it writes.
func (c *conn) write() bool {
	b := c.pending
	if b == nil || c.dead != nil {
		return false
	}
	c.pending = nil
	until := time.Now().Add(c.patience)
	c.mu.Unlock()
	err := c.tls.SetWriteDeadline(until)
	if err == nil {
		_, err = c.tls.Write(*b)
	}
	*b = (*b)[:0]
	if cap(*b) <= 2*full {
		buffers.Put(b)
	}
	c.mu.Lock()
	if err != nil {
		c.die(err)
	}
	c.wakeBlocked()
	return true
}

// wakeBlocked wakes the streams that wait for the connection. c.mu is held.
func (c *conn) wakeBlocked() {
	for s := range c.blocked {
		s.changed.Broadcast()
	}
}

// data sends DATA frames of the stream, the last of them with END_STREAM if end is true, and waits where the client's
// windows are, or the connection is full.
func (s *stream) data(p []byte, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		n, err := s.await(len(p))
		if err != nil {
			return err
		}
		s.window -= int64(n)
		c.window -= int64(n)
		var flags xhttp2.Flags
		if end && n == len(p) {
			flags = xhttp2.FlagDataEndStream
		}
		c.frame(xhttp2.FrameData, flags, s.id, p[:n])
		if p = p[n:]; len(p) == 0 {
			break
		}
	}
	if end {
		s.closeLocal()
	} else if len(c.streams) >= crowd && !c.flushing {
		c.gather()
	}
	c.flush()
	return s.err
}

// gather lets those run who are about to add something: an event goes to many watches at a time. c.mu is held, but
// not meanwhile.
func (c *conn) gather() {
	c.flushing = true
	c.mu.Unlock()
	runtime.Gosched()
	c.mu.Lock()
	c.flushing = false
}

// await waits until some of n bytes can be sent, or all if n is 0, and returns how many. c.mu is held.
func (s *stream) await(n int) (int, error) {
	c := s.c
	for {
		if s.err != nil {
			return 0, s.err
		}
		can := max(0, min(int64(n), s.window, c.window, int64(c.maxFrame)))
		if c.waiting() < full && (can > 0 || n == 0) {
			return int(can), nil
		}
		if !c.flushing && c.pending != nil {
			c.flush() // what the client waits for may be in there
			continue
		}
		c.blocked[s] = struct{}{}
		s.changed.Wait()
		delete(c.blocked, s)
	}
}

// headers sends a block of header fields that has been encoded, in as many frames as it needs. c.mu is held.
func (c *conn) headers(id uint32, block []byte, end bool) {
	kind, flags := xhttp2.FrameHeaders, xhttp2.Flags(0)
	if end {
		flags |= xhttp2.FlagHeadersEndStream
	}
	for {
		n := min(len(block), c.maxFrame)
		if n == len(block) {
			flags |= xhttp2.FlagHeadersEndHeaders // the same bit as CONTINUATION's
		}
		c.frame(kind, flags, id, block[:n])
		if block = block[n:]; len(block) == 0 {
			return
		}
		kind, flags = xhttp2.FrameContinuation, 0
	}
}

// number sends a frame whose payload is one number.
func (c *conn) number(t xhttp2.FrameType, id, n uint32) {
	var payload [4]byte
	binary.BigEndian.PutUint32(payload[:], n)
	c.frame(t, 0, id, payload[:])
}

// goAway sends a GOAWAY frame. c.mu is held.
func (c *conn) goAway(code xhttp2.ErrCode) {
	var payload [8]byte
	binary.BigEndian.PutUint32(payload[:], c.highest)
	binary.BigEndian.PutUint32(payload[4:], uint32(code))
	c.frame(xhttp2.FrameGoAway, 0, 0, payload[:])
	c.leaving = true
}
