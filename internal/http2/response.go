package http2

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// gathered is how many bytes of an answer are kept back until the handler flushes or returns: an answer that is not
// longer goes with its length.
const gathered = 4 << 10

var gatherers = sync.Pool{New: func() any { b := make([]byte, 0, gathered); return &b }}

// response is an http.ResponseWriter. It is used by one goroutine, but for the deadlines.
type response struct {
	s      *stream
	req    *http.Request
	header http.Header

	status  int                 // 0: not said yet
	fields  []hpack.HeaderField // as they were when the status was said
	sent    bool                // status and fields
	length  int64               // that the handler has declared, -1 if it has not
	written int64
	kept    *[]byte  // of the body
	trailer []string // names of fields that come after the body
	last    bool     // request of this connection
}

// handle runs the handler for a request.
func (c *conn) handle(s *stream, req *http.Request, truncated bool) {
	w := &response{s: s, req: req, header: http.Header{}, length: -1}
	defer func() {
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			c.server.log.Printf("http2: panic serving %s: %v", c.peer, p)
		}
		w.finish(p != nil)
	}()
	if truncated {
		http.Error(w, "431 Request Header Fields Too Large", http.StatusRequestHeaderFieldsTooLarge)
		return
	}
	c.handler.ServeHTTP(w, req)
}

// finish sends what is left of the answer, or breaks it off.
func (w *response) finish(broken bool) {
	s, c := w.s, w.s.c
	if !broken {
		_ = w.send(true) // an error is the client's, who has gone
	}
	if w.kept != nil {
		*w.kept = (*w.kept)[:0]
		gatherers.Put(w.kept)
		w.kept = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if s.err == nil {
		c.reset(s.id, xhttp2.ErrCodeInternal)
	}
	s.discard()
	s.cancel()
	c.flush()
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	switch {
	case status < 100 || status > 999:
		panic("http2: invalid WriteHeader code " + strconv.Itoa(status))
	case w.status != 0:
		w.s.c.server.log.Printf("http2: superfluous WriteHeader call with %d after %d", status, w.status)
		return
	case status < 200:
		if status != http.StatusSwitchingProtocols {
			c := w.s.c
			c.mu.Lock()
			defer c.mu.Unlock()
			w.s.proceed = w.s.proceed && status != http.StatusContinue
			c.inform(w.s.id, status, fieldsOf(w.header))
			c.flush()
		}
		return
	}
	w.status = status
	w.trailer = trailersOf(w.header)
	w.fields = fieldsOf(w.header)
	w.last = w.header.Get("Connection") == "close"
	if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		w.length = n
	}
}

// allowed tells whether an answer has a body at all.
func (w *response) allowed() bool {
	return w.status >= 200 && w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.allowed() {
		return 0, http.ErrBodyNotAllowed
	}
	w.written += int64(len(p))
	if w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	if w.req.Method == http.MethodHead {
		return len(p), nil
	}
	if w.kept == nil {
		w.kept = gatherers.Get().(*[]byte)
	}
	if len(*w.kept)+len(p) <= gathered {
		*w.kept = append(*w.kept, p...)
		return len(p), nil
	}
	if !w.sent && len(*w.kept) == 0 {
		w.sniff(p)
	}
	if err := w.send(false); err != nil {
		return 0, err
	}
	if len(p) <= gathered {
		*w.kept = append(*w.kept, p...)
		return len(p), nil
	}
	if err := w.s.data(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (w *response) WriteString(p string) (int, error) { return w.Write([]byte(p)) }

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is Flush for an http.ResponseController.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.send(false)
}

// SetReadDeadline is called by an http.ResponseController.
func (w *response) SetReadDeadline(at time.Time) error {
	w.s.move(&w.s.reading, at, w.s.stopReading)
	return nil
}

// SetWriteDeadline is called by an http.ResponseController. A stream that misses it is reset.
func (w *response) SetWriteDeadline(at time.Time) error {
	w.s.move(&w.s.writing, at, w.s.stopWriting)
	return nil
}

// EnableFullDuplex is called by an http.ResponseController; it is always so.
func (w *response) EnableFullDuplex() error { return nil }

// send sends what is known of the answer; all of it at the end.
func (w *response) send(end bool) error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	var body []byte
	if w.kept != nil {
		body = *w.kept
	}
	trailers := end && w.trailing()
	if !w.sent {
		if err := w.sendHeader(body, end, trailers); err != nil {
			return err
		}
		if end && !trailers && len(body) == 0 {
			return nil
		}
	}
	if len(body) > 0 || end && !trailers {
		if err := w.s.data(body, end && !trailers); err != nil {
			return err
		}
		if w.kept != nil {
			*w.kept = (*w.kept)[:0]
		}
	} else if !end {
		return w.s.flush()
	}
	if trailers {
		return w.sendTrailers()
	}
	return nil
}

func (s *stream) flush() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.flush()
	return s.err
}

// sniff adds a type for a body that has none.
func (w *response) sniff(body []byte) {
	if len(body) > 0 && w.allowed() && !w.having("content-type") && !w.having("content-encoding") {
		w.fields = append(w.fields, hpack.HeaderField{Name: "content-type", Value: http.DetectContentType(body)})
	}
}

func (w *response) having(name string) bool {
	return slices.ContainsFunc(w.fields, func(f hpack.HeaderField) bool { return f.Name == name })
}

// sendHeader adds status and fields to what is to be written; data, or flush, writes it.
func (w *response) sendHeader(body []byte, end, trailers bool) error {
	w.sniff(body)
	if end && w.allowed() && !trailers && w.length < 0 && (len(body) > 0 || w.req.Method != http.MethodHead) && !w.having("content-length") {
		w.fields = append(w.fields, hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(body))})
	}
	if _, said := w.header["Date"]; !said {
		w.fields = append(w.fields, hpack.HeaderField{Name: "date", Value: date()})
	}
	s, c := w.s, w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := s.await(0); err != nil {
		return err
	}
	w.sent = true
	last := end && !trailers && len(body) == 0
	c.headers(s.id, c.encode(w.status, w.fields), last)
	if w.last && !c.leaving {
		c.goAway(xhttp2.ErrCodeNo)
	}
	if last {
		s.closeLocal()
		c.flush()
	}
	return nil
}

// encode encodes a block of header fields. c.mu is held, and to be held until the block has been added: the client
// decodes blocks in the order in which they were encoded.
func (c *conn) encode(status int, fields []hpack.HeaderField) []byte {
	c.block.Reset()
	if status != 0 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)}) // a buffer takes all
	}
	for _, f := range fields {
		_ = c.encoder.WriteField(f)
	}
	return c.block.Bytes()
}

// inform sends an informational answer. c.mu is held.
func (c *conn) inform(id uint32, status int, fields []hpack.HeaderField) {
	if c.streams[id] != nil {
		c.headers(id, c.encode(status, fields), false)
	}
}

// fieldsOf returns a header's fields in the order of their names, without those that are trailers.
func fieldsOf(h http.Header) []hpack.HeaderField {
	fields := make([]hpack.HeaderField, 0, len(h)+2)
	for name, values := range h {
		if strings.HasPrefix(name, http.TrailerPrefix) || slices.Contains(ofConnection, name) {
			continue
		}
		for _, v := range values {
			if f := (hpack.HeaderField{Name: lower(name), Value: v}); valid(f) {
				fields = append(fields, f)
			}
		}
	}
	slices.SortStableFunc(fields, func(a, b hpack.HeaderField) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// valid tells whether a field can be sent; others are left out, as net/http does.
func valid(f hpack.HeaderField) bool {
	return f.Name != "" && !strings.ContainsAny(f.Name, " \t\r\n:\x00") && !strings.ContainsAny(f.Value, "\r\n\x00")
}

// common has the lower-case forms of names that come with most answers.
var common = map[string]string{
	"Audit-Id": "audit-id", "Cache-Control": "cache-control", "Content-Encoding": "content-encoding", "Content-Length": "content-length",
	"Content-Type": "content-type", "Date": "date", "Etag": "etag", "Vary": "vary", "Warning": "warning",
}

func lower(name string) string {
	if l, ok := common[name]; ok {
		return l
	}
	return strings.ToLower(name)
}

// trailersOf returns the names that were declared as trailers.
func trailersOf(h http.Header) (names []string) {
	for _, list := range h["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			names = append(names, http.CanonicalHeaderKey(textproto.TrimString(name)))
		}
	}
	return names
}

// trailing tells whether there are header fields to be sent after the body.
func (w *response) trailing() bool {
	if !w.allowed() {
		return false
	}
	for name := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) || slices.Contains(w.trailer, name) {
			return true
		}
	}
	return false
}

func (w *response) sendTrailers() error {
	h := http.Header{}
	for name, values := range w.header {
		if bare, marked := strings.CutPrefix(name, http.TrailerPrefix); marked {
			h[bare] = values
		} else if slices.Contains(w.trailer, name) {
			h[name] = values
		}
	}
	s, c := w.s, w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := s.await(0); err != nil {
		return err
	}
	c.headers(s.id, c.encode(0, fieldsOf(h)), true)
	s.closeLocal()
	c.flush()
	return nil
}

// dated is a Date header field's value, good for one second.
type dated struct {
	second int64
	text   string
}

var today atomic.Pointer[dated]

func date() string {
	now := time.Now()
	d := today.Load()
	if d == nil || d.second != now.Unix() {
		d = &dated{now.Unix(), now.UTC().Format(http.TimeFormat)}
		today.Store(d)
	}
	return d.text
}
