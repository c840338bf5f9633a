package apiserver

import (
	"log/slog"
	"net/http"
	"time"

	"skiff.dev/skiff/internal/http2"
)

// HTTP returns an http.Server for the API with the limits that keep clients
// from holding it up; what it listens on and its certificates are the caller's.
func (s *Server) HTTP() *http.Server {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 30 * time.Second,
		MaxHeaderBytes:    1 << 20,
		IdleTimeout:       3 * time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	http2.Enable(srv, http2.Options{
		Streams: 250, Header: srv.MaxHeaderBytes, Idle: srv.IdleTimeout, PingAfter: 30 * time.Second, PingWait: 15 * time.Second,
	})
	return srv
}
