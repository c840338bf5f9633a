package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip" // three times as fast as the standard library's
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/scheme"
)

// gzipFrom is the size of an answer, in bytes, from which it is compressed if
// the client can take that.
const gzipFrom = 128 << 10

// writeObject answers with one object, which may be shared.
func writeObject(w http.ResponseWriter, r *http.Request, code int, obj runtime.Object) {
	f, err := accept(r, false, offer)
	if err != nil { // what is no object of the resource has no transformed form
		f = form{media: scheme.JSON}
	}
	data, err := encode(f, obj)
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	writeBytes(w, r, code, f.media, data)
}

func encode(f form, obj runtime.Object) ([]byte, error) {
	switch f.media {
	case scheme.Protobuf:
		return scheme.EncodeProtobuf(obj)
	case scheme.YAML:
		return scheme.EncodeYAML(obj)
	}
	data, err := scheme.EncodeJSON(obj)
	if err != nil || !f.pretty {
		return append(data, '\n'), err
	}
	return indent(data), nil
}

func indent(data []byte) []byte {
	var buf bytes.Buffer
	if err := json.Indent(&buf, data, "", "  "); err != nil {
		return data
	}
	return buf.Bytes()
}

// writeBytes answers with parts that are already encoded.
func writeBytes(w http.ResponseWriter, r *http.Request, code int, media string, parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Cache-Control", "no-cache, private")
	writeWarnings(w, r)
	compressed := size >= gzipFrom && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip")
	if compressed {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
	} else {
		h.Set("Content-Length", strconv.Itoa(size))
	}
	w.WriteHeader(code)
	switch {
	case r.Method == http.MethodHead:
	case compressed:
		writeGzip(w, parts)
	default:
		writeParts(w, parts, size)
	}
}

// gather is how much of an answer is handed to the connection at a time, in
// bytes. What HTTP/2 is given goes through the goroutine of the connection,
// which is woken for each piece.
const gather = 64 << 10

// gathering and zipping are spare buffers and compressors; a compressor has
// tables of some hundred KiB.
var (
	gathering = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, gather) }}
	zipping   = sync.Pool{New: func() any {
		z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
		return z
	}}
)

// writeParts writes parts that come to size bytes. Small answers go out as one
// piece, in the buffer that HTTP has anyway.
func writeParts(w io.Writer, parts [][]byte, size int) {
	to := w
	if size > gather/16 && len(parts) > 1 {
		b := gathering.Get().(*bufio.Writer)
		b.Reset(w)
		defer func() {
			_ = b.Flush() // fails if the client has gone
			b.Reset(nil)
			gathering.Put(b)
		}()
		to = b
	}
	for _, p := range parts {
		if _, err := to.Write(p); err != nil {
			return // the client has gone
		}
	}
}

func writeGzip(w io.Writer, parts [][]byte) {
	b := gathering.Get().(*bufio.Writer)
	b.Reset(w)
	z := zipping.Get().(*gzip.Writer)
	z.Reset(b)
	defer func() {
		if z.Close() == nil {
			_ = b.Flush() // fails if the client has gone
		}
		z.Reset(io.Discard)
		zipping.Put(z)
		b.Reset(nil)
		gathering.Put(b)
	}()
	for _, p := range parts {
		if _, err := z.Write(p); err != nil {
			return // the client has gone
		}
	}
}

// writeWarnings sends what the request collected as RFC 7234 warn-text.
func writeWarnings(w http.ResponseWriter, r *http.Request) {
	warnings := request.WarningsFrom(r.Context())
	if warnings == nil {
		return
	}
	for _, text := range warnings.List() {
		w.Header().Add("Warning", fmt.Sprintf("299 - %s", strconv.Quote(oneLine(text))))
	}
}

func oneLine(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, text)
}

// writeError answers with a Status. An error that is not one of the API's is
// logged and told as an internal error.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(r, err)
	f, ferr := accept(r, false, offer)
	if ferr != nil {
		f = form{media: scheme.JSON}
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	data, eerr := encode(f, status)
	if eerr != nil {
		http.Error(w, status.Message, int(status.Code))
		return
	}
	writeBytes(w, r, int(status.Code), f.media, data)
}

func statusOf(r *http.Request, err error) *metav1.Status {
	var api apierrors.APIStatus
	if errors.Is(err, context.DeadlineExceeded) {
		api = apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	} else if !errors.As(err, &api) {
		if r.Context().Err() == nil {
			slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		api = apierrors.NewInternalError(err)
	}
	status := api.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return &status
}
