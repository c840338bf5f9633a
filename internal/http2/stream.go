package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	xhttp2 "golang.org/x/net/http2"
)

// credit is how many bytes the other side may send.
type credit struct {
	left, back int64 // back: used up, and not given back yet
}

// use takes n bytes, and tells whether there were so many.
func (c *credit) use(n int64) bool {
	c.left -= n
	return c.left >= 0
}

// giveBack returns by how much a window is to be widened when n bytes have been used up: not by each little.
func (c *credit) giveBack(n int64) uint32 {
	if c.back += n; c.back < received/2 {
		return 0
	}
	n, c.back = c.back, 0
	c.left += n
	return uint32(n)
}

// stream is a request and its answer. What it has is guarded by its connection's mu.
type stream struct {
	c       *conn
	id      uint32
	cancel  context.CancelFunc // of the request's context
	changed sync.Cond          // anything below
	err     error              // why nothing can be sent any more; nil while it can
	window  int64              // bytes that the client still takes

	got      bytes.Buffer // of the request's body, to be read
	credit   credit
	declared int64 // length of the body, -1 if unknown
	length   int64 // of what has come
	complete bool  // all has come
	gone     bool  // nobody reads the body any more
	trailer  http.Header
	late     error // the time for reading, or for writing, is over

	proceed bool // the client waits for word to send the body

	reading, writing deadline
}

// close ends a stream. c.mu is held.
func (s *stream) close(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	c := s.c
	delete(c.streams, s.id)
	c.busy = time.Now()
	c.refund(int64(s.got.Len()))
	if !s.complete {
		s.got.Reset()
	}
	s.cancel()
	s.changed.Broadcast()
	s.reading.stop()
	s.writing.stop()
	c.rest()
}

// errSent is the error of a stream whose answer has been sent whole.
var errSent = errors.New("the answer is complete")

// closeLocal is called when the answer's last frame has been added. c.mu is held.
func (s *stream) closeLocal() {
	if s.err == nil && !s.complete { // nobody is interested in the rest
		s.c.number(xhttp2.FrameRSTStream, s.id, uint32(xhttp2.ErrCodeNo))
	}
	s.close(errSent)
}

// refund lets the client send more on the connection. c.mu is held.
func (c *conn) refund(n int64) {
	if by := c.credit.giveBack(n); by > 0 {
		c.number(xhttp2.FrameWindowUpdate, 0, by)
	}
}

// body takes a DATA frame. c.mu is held.
func (c *conn) body(f *xhttp2.DataFrame) error {
	id, size, data := f.StreamID, int64(f.Length), f.Data()
	if !c.credit.use(size) {
		return xhttp2.ConnectionError(xhttp2.ErrCodeFlowControl)
	}
	s := c.streams[id]
	if s == nil || s.complete {
		c.refund(size)
		if id > c.highest {
			return c.unheard()
		}
		return xhttp2.StreamError{StreamID: id, Code: xhttp2.ErrCodeStreamClosed}
	}
	s.length += int64(len(data))
	switch {
	case !s.credit.use(size):
		c.refund(size)
		return xhttp2.StreamError{StreamID: id, Code: xhttp2.ErrCodeFlowControl}
	case s.declared >= 0 && s.length > s.declared, f.StreamEnded() && !s.whole():
		c.refund(size)
		return xhttp2.StreamError{StreamID: id, Code: xhttp2.ErrCodeProtocol}
	}
	kept := int64(len(data))
	if s.gone {
		kept = 0
	} else {
		s.got.Write(data)
	}
	s.used(size - kept)
	s.complete = f.StreamEnded()
	s.changed.Broadcast()
	return nil
}

// whole tells whether as much has come as was declared.
func (s *stream) whole() bool { return s.declared < 0 || s.length == s.declared }

// used gives back room for n bytes. c.mu is held.
func (s *stream) used(n int64) {
	s.c.refund(n)
	if by := s.credit.giveBack(n); by > 0 && !s.complete && s.err == nil {
		s.c.number(xhttp2.FrameWindowUpdate, s.id, by)
	}
}

// requestBody is the body of a request, for its handler.
type requestBody struct {
	s   *stream
	req *http.Request // whose trailer is filled in at the end
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	s, c := b.s, b.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.proceed {
		s.proceed = false
		c.inform(s.id, http.StatusContinue, nil)
		c.flush()
	}
	for {
		switch {
		case s.gone:
			return 0, http.ErrBodyReadAfterClose
		case s.late != nil:
			return 0, s.late
		case s.got.Len() > 0:
			n, _ := s.got.Read(p)
			if s.err == nil { // else close has given back all
				s.used(int64(n))
				c.flush()
			}
			return n, nil
		case s.complete:
			for k := range b.req.Trailer {
				b.req.Trailer[k] = s.trailer[k]
			}
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		}
		s.changed.Wait()
	}
}

// Close implements io.Closer.
func (b *requestBody) Close() error {
	s, c := b.s, b.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.discard()
	c.flush()
	return nil
}

// discard has the rest of the body come to nothing. c.mu is held.
func (s *stream) discard() {
	if s.gone {
		return
	}
	s.gone = true
	n := int64(s.got.Len())
	s.got = bytes.Buffer{}
	if s.err == nil { // else it has been given back
		s.used(n)
	}
}

// deadline is a time at which something happens to a stream.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

// set moves the deadline to a time, never if that is zero. When it comes, f is called with mu held, as it is now.
func (d *deadline) set(at time.Time, mu *sync.Mutex, f func()) {
	d.stop()
	d.at = at
	wait := time.Until(at)
	switch {
	case at.IsZero():
	case wait <= 0:
		f()
	default:
		d.timer = time.AfterFunc(wait, func() {
			mu.Lock()
			defer mu.Unlock()
			if d.at.Equal(at) { // not moved meanwhile
				f()
			}
		})
	}
}

func (d *deadline) stop() {
	d.at = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
}

// move sets one of the stream's deadlines.
func (s *stream) move(d *deadline, at time.Time, f func()) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.err == nil {
		d.set(at, &s.c.mu, f)
	}
}

// stopReading ends the time for reading the body.
func (s *stream) stopReading() {
	s.late = os.ErrDeadlineExceeded
	s.changed.Broadcast()
}

// stopWriting ends the time for writing the answer.
func (s *stream) stopWriting() {
	if s.err != nil {
		return
	}
	c := s.c
	c.number(xhttp2.FrameRSTStream, s.id, uint32(xhttp2.ErrCodeInternal))
	s.close(os.ErrDeadlineExceeded)
	c.flushSoon()
}
