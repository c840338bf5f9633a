package http2

import (
	"context"
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	xhttp2 "golang.org/x/net/http2"
)

// request takes the HEADERS of a request, or of what comes after its body. c.mu is held.
func (c *conn) request(f *xhttp2.MetaHeadersFrame) error {
	id := f.StreamID
	if s := c.streams[id]; s != nil {
		return s.trailers(f)
	}
	switch {
	case id%2 == 0:
		return xhttp2.ConnectionError(xhttp2.ErrCodeProtocol)
	case id <= c.highest:
		return xhttp2.ConnectionError(xhttp2.ErrCodeStreamClosed)
	case c.leaving:
		return nil // which the client knows from GOAWAY: it was not its highest stream then
	}
	c.highest = id
	switch {
	case f.HasPriority() && f.Priority.StreamDep == id:
		return xhttp2.StreamError{StreamID: id, Code: xhttp2.ErrCodeProtocol}
	// Who resets its requests and makes new ones keeps more than its share of handlers at work.
	case len(c.streams) >= c.server.Streams, c.running >= 2*c.server.Streams:
		return xhttp2.StreamError{StreamID: id, Code: xhttp2.ErrCodeRefusedStream}
	}
	req, err := requestOf(f)
	if err != nil {
		c.server.log.Printf("http2: %s: stream %d: %v", c.peer, id, err)
		return xhttp2.StreamError{StreamID: id, Code: xhttp2.ErrCodeProtocol}
	}
	s := &stream{
		c: c, id: id, window: c.initial, credit: credit{left: received}, declared: req.ContentLength, complete: f.StreamEnded(),
		proceed: textproto.TrimString(strings.ToLower(req.Header.Get("Expect"))) == "100-continue",
	}
	if !s.complete {
		req.Body = &requestBody{s: s, req: req}
	}
	s.changed.L = &c.mu
	ctx, cancel := context.WithCancel(c.base)
	s.cancel = cancel
	req.RemoteAddr, req.TLS = c.peer, c.state
	c.streams[id] = s
	c.running++
	req = req.WithContext(ctx)
	if body, ok := req.Body.(*requestBody); ok {
		body.req = req
	}
	truncated := f.Truncated
	c.crew.Go(func() { c.handle(s, req, truncated) })
	return nil
}

// trailers takes the header fields that come after a body. c.mu is held.
func (s *stream) trailers(f *xhttp2.MetaHeadersFrame) error {
	switch {
	case s.complete:
		return xhttp2.StreamError{StreamID: s.id, Code: xhttp2.ErrCodeStreamClosed}
	case !f.StreamEnded(), len(f.PseudoFields()) > 0, !s.whole():
		return xhttp2.StreamError{StreamID: s.id, Code: xhttp2.ErrCodeProtocol}
	}
	s.trailer = http.Header{}
	for _, hf := range f.RegularFields() {
		s.trailer.Add(http.CanonicalHeaderKey(hf.Name), hf.Value)
	}
	s.complete = true
	s.changed.Broadcast()
	return nil
}

// ofConnection are the header fields that a request or an answer must not have, for they are about a connection.
var ofConnection = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"}

// requestOf reads a request out of its header fields. RFC 9113, 8.3.1.
func requestOf(f *xhttp2.MetaHeadersFrame) (*http.Request, error) {
	method, scheme, authority, path := f.PseudoValue("method"), f.PseudoValue("scheme"), f.PseudoValue("authority"), f.PseudoValue("path")
	if f.PseudoValue("protocol") != "" {
		return nil, errors.New("CONNECT to a protocol is not served")
	}
	header, err := headerOf(f)
	if err != nil {
		return nil, err
	}
	req := &http.Request{Method: method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: header, Host: authority, RequestURI: path, Body: http.NoBody}
	if req.Host == "" {
		req.Host = header.Get("Host")
	}
	header.Del("Host")
	switch {
	case method == "CONNECT":
		if path != "" || scheme != "" || authority == "" {
			return nil, errors.New("CONNECT takes an :authority only")
		}
		req.URL, req.RequestURI = &url.URL{Host: authority}, authority
	case method == "" || path == "" || scheme != "https" && scheme != "http":
		return nil, errors.New("a request has a :method, a :scheme and a :path")
	default:
		if req.URL, err = url.ParseRequestURI(path); err != nil {
			return nil, err
		}
	}
	if req.ContentLength, err = lengthOf(header, f.StreamEnded()); err != nil {
		return nil, err
	}
	for _, list := range header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(textproto.TrimString(name))
			if name == "Transfer-Encoding" || name == "Content-Length" || name == "Trailer" {
				continue
			}
			if req.Trailer == nil {
				req.Trailer = http.Header{}
			}
			req.Trailer[name] = nil
		}
	}
	header.Del("Trailer")
	return req, nil
}

func headerOf(f *xhttp2.MetaHeadersFrame) (http.Header, error) {
	fields := f.RegularFields()
	header := make(http.Header, len(fields))
	values := make([]string, len(fields)) // of the slices below
	for i, hf := range fields {
		name := http.CanonicalHeaderKey(hf.Name)
		if slices.Contains(ofConnection, name) || name == "Te" && hf.Value != "trailers" {
			return nil, errors.New("a header field that is of HTTP/1: " + name)
		}
		switch have := header[name]; {
		case have == nil:
			values[i] = hf.Value
			header[name] = values[i : i+1 : i+1]
		case name == "Cookie": // which may come in pieces; RFC 9113, 8.2.3
			have[0] += "; " + hf.Value
		default:
			header[name] = append(have, hf.Value)
		}
	}
	return header, nil
}

// lengthOf returns the declared length of a body, -1 if there is none.
func lengthOf(header http.Header, none bool) (int64, error) {
	declared := header["Content-Length"]
	switch {
	case len(declared) == 0 && none:
		return 0, nil
	case len(declared) == 0:
		return -1, nil
	}
	n, err := strconv.ParseUint(declared[0], 10, 63)
	switch {
	case err != nil || len(declared) > 1:
		return 0, errors.New("a Content-Length that is no number")
	case none && n > 0:
		return 0, errors.New("a Content-Length without a body")
	}
	return int64(n), nil
}
