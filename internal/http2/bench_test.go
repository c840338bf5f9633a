package http2_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"skiff.dev/skiff/internal/http2"
)

// eachServer runs a benchmark with this package's HTTP/2 and with net/http's.
func eachServer(b *testing.B, h http.HandlerFunc, f func(b *testing.B, s *httptest.Server)) {
	for name, enable := range map[string]func(*http.Server){
		"net-http": func(*http.Server) {},
		"http2":    func(srv *http.Server) { http2.Enable(srv, options) },
	} {
		b.Run(name, func(b *testing.B) {
			s := httptest.NewUnstartedServer(h)
			s.EnableHTTP2 = true
			enable(s.Config)
			s.StartTLS()
			defer s.Close()
			f(b, s)
		})
	}
}

// BenchmarkGet is a request for 1 KB, one at a time; the client is in the figure.
func BenchmarkGet(b *testing.B) {
	body := make([]byte, 1000)
	eachServer(b, func(w http.ResponseWriter, r *http.Request) { w.Write(body) }, func(b *testing.B, s *httptest.Server) {
		for b.Loop() {
			res, err := s.Client().Get(s.URL)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	})
}

// BenchmarkFanOut is an event of 1 KB for 200 streams of one connection; the client is in the figure.
func BenchmarkFanOut(b *testing.B) {
	const streams = 200
	event := bytes.Repeat([]byte("x"), 1000)
	var wake sync.Cond
	wake.L = &sync.Mutex{}
	now := 0
	eachServer(b, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		for seen := 0; ; seen++ {
			wake.L.Lock()
			for now == seen {
				wake.Wait()
			}
			over := now < 0
			wake.L.Unlock()
			if over {
				return
			}
			w.Write(event)
			w.(http.Flusher).Flush()
		}
	}, func(b *testing.B, s *httptest.Server) {
		now = 0
		var got, clients sync.WaitGroup
		for range streams {
			res, err := s.Client().Get(s.URL)
			if err != nil {
				b.Fatal(err)
			}
			clients.Go(func() {
				defer res.Body.Close()
				buf := make([]byte, len(event))
				for {
					if _, err := io.ReadFull(res.Body, buf); err != nil {
						return
					}
					got.Done()
				}
			})
		}
		tell := func(n int) {
			wake.L.Lock()
			defer wake.L.Unlock()
			now = n
			wake.Broadcast()
		}
		b.ResetTimer()
		for i := range b.N {
			got.Add(streams)
			tell(i + 1)
			got.Wait()
		}
		b.StopTimer()
		tell(-1)
		clients.Wait()
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/streams, "ns/event")
	})
}
