package http2_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff.dev/skiff/internal/http2"
)

var options = http2.Options{Streams: 250, Header: 1 << 20, Idle: time.Minute, PingAfter: 30 * time.Second, PingWait: 15 * time.Second}

func start(t testing.TB, o http2.Options, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	http2.Enable(s.Config, o)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func get(t testing.TB, s *httptest.Server, path string) (*http.Response, string) {
	t.Helper()
	res, err := s.Client().Get(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestRequestAndAnswer(t *testing.T) {
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hello":
			w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.Proto, " ", r.Host != "", " ", r.TLS != nil, " ", r.URL.RawQuery, " ", r.Header["Cookie"]))
			io.WriteString(w, "hello")
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/long":
			w.Write(make([]byte, 3_000_000))
		case "/declared":
			w.Header().Set("Content-Length", "3")
			n, err := w.Write([]byte("four"))
			io.WriteString(w, "abc"[:0])
			if n != 0 || !errors.Is(err, http.ErrContentLength) {
				t.Error(n, err)
			}
		}
	})
	res, body := get(t, s, "/hello?a=b")
	if body != "hello" || res.ProtoMajor != 2 || res.ContentLength != 5 || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.Header.Get("Date") == "" {
		t.Errorf("%q %+v", body, res)
	}
	if seen := res.Header.Get("X-Seen"); seen != "GET HTTP/2.0 true true a=b []" {
		t.Error(seen)
	}
	if res, body = get(t, s, "/none"); res.StatusCode != 204 || body != "" || res.Header.Get("Content-Length") != "" {
		t.Errorf("%q %+v", body, res)
	}
	if _, body = get(t, s, "/long"); len(body) != 3_000_000 {
		t.Errorf("%d bytes", len(body))
	}
	head, err := s.Client().Head(s.URL + "/hello")
	if err != nil || head.StatusCode != 200 || head.ContentLength > 0 {
		t.Error(head, err)
	}
}

func TestBodies(t *testing.T) {
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(w, r.Body)
		if err != nil {
			t.Error(n, err)
		}
		w.Header().Set(http.TrailerPrefix+"Sum", r.Trailer.Get("Sum"))
	})
	for _, size := range []int{0, 1, 5000, 70_000, 5 << 20} {
		sent := make([]byte, size)
		rand.Read(sent)
		req, err := http.NewRequest(http.MethodPost, s.URL, io.MultiReader(bytes.NewReader(sent))) // of unknown length
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"Sum": {strconv.Itoa(size)}}
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came back as %d (%v)", size, len(got), err)
		}
		if sum := res.Trailer.Get("Sum"); sum != strconv.Itoa(size) {
			t.Errorf("trailer %q, want %d", sum, size)
		}
	}
}

// TestManyAtOnce has many requests with bodies on one connection.
func TestManyAtOnce(t *testing.T) {
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		w.Write(body[len(body)/2:])
	})
	var wg sync.WaitGroup
	for i := range 400 { // more than there may be at a time
		wg.Go(func() {
			sent := strings.Repeat(strconv.Itoa(i%10), 1+i*300)
			res, err := s.Client().Post(s.URL, "", strings.NewReader(sent))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			if err != nil || string(got) != sent {
				t.Errorf("%d: %d bytes, want %d (%v)", i, len(got), len(sent), err)
			}
		})
	}
	wg.Wait()
}

func TestClientThatLeaves(t *testing.T) {
	gone := make(chan error, 1)
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		_, err := w.Write(make([]byte, 10_000))
		gone <- err
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	cancel()
	if err := <-gone; err == nil {
		t.Error("what was written to a client that has gone made no error")
	}
}

func TestDeadlines(t *testing.T) {
	ended := make(chan error, 1)
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		switch r.URL.Path {
		case "/read":
			control.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err := io.ReadAll(r.Body)
			ended <- err
			w.WriteHeader(http.StatusRequestTimeout)
		case "/write": // to a client that does not read
			control.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			var err error
			for err == nil {
				_, err = w.Write(make([]byte, 100_000))
			}
			ended <- err
		}
	})
	r, sending := io.Pipe()
	defer sending.Close()
	res, err := s.Client().Post(s.URL+"/read", "", r)
	if err != nil || res.StatusCode != http.StatusRequestTimeout {
		t.Error(res, err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	res, err = s.Client().Get(s.URL + "/write")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("an answer that was broken off came to a good end")
	}
}

func TestContinue(t *testing.T) {
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			io.Copy(w, r.Body)
		}
	})
	for path, want := range map[string]bool{"/read": true, "/refuse": false} {
		continued := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+path, strings.NewReader("body"))
		req.Header.Set("Expect", "100-continue")
		s.Client().Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if continued != want {
			t.Errorf("%s: continued: %v", path, continued)
		}
	}
}

// TestShutdown: requests under way finish, and the client uses another connection meanwhile.
func TestShutdown(t *testing.T) {
	begun, finish := make(chan bool), make(chan bool)
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- true
			<-finish
		}
		io.WriteString(w, "done")
	})
	get(t, s, "/")
	answer := make(chan string)
	go func() {
		res, err := s.Client().Get(s.URL + "/slow")
		if err != nil {
			answer <- err.Error()
			return
		}
		body, _ := io.ReadAll(res.Body)
		answer <- string(body)
	}()
	<-begun
	down := make(chan error)
	go func() { down <- s.Config.Shutdown(t.Context()) }()
	select {
	case err := <-down:
		t.Fatalf("it did not wait (%v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	if got := <-answer; got != "done" {
		t.Error(got)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestPanics(t *testing.T) {
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			w.(http.Flusher).Flush()
		}
		if r.URL.Path != "/" {
			panic(http.ErrAbortHandler)
		}
	})
	for _, path := range []string{"/early", "/late"} {
		res, err := s.Client().Get(s.URL + path)
		if err == nil {
			_, err = io.ReadAll(res.Body)
		}
		if err == nil {
			t.Errorf("%s: no error", path)
		}
	}
	get(t, s, "/")
}
