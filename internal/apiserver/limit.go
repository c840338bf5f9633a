package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/apiserver/request"
)

// How many requests that are not long-running are served at once, where the
// configuration does not say; upstream's defaults.
const (
	defaultReads  = 400
	defaultWrites = 200
)

// requestTime is how long a request that is not long-running may take at most.
const requestTime = 60 * time.Second

// A limit counts the requests of one kind under way.
type limit struct {
	kind string
	max  int64
	now  atomic.Int64
}

// admit lets a request in, or says that the server is busy. Long-running
// requests, health checks and administrators are always let in: those must be
// able to look what is wrong.
func (s *Server) admit(info *request.Info, user *request.User, long bool) (leave func(), err error) {
	if long || user.InGroup(request.GroupMasters) || isHealth(info) {
		return func() {}, nil
	}
	l := &s.writes
	if readOnly(info) {
		l = &s.reads
	}
	n := l.now.Add(1)
	if n > l.max {
		l.now.Add(-1)
		return nil, apierrors.NewTooManyRequests("Too many requests, please try again later.", 1)
	}
	s.Metrics.InFlight(l.kind, int(n))
	return func() { s.Metrics.InFlight(l.kind, int(l.now.Add(-1))) }, nil
}

func readOnly(info *request.Info) bool {
	switch info.Verb {
	case "get", "list", "watch", "head":
		return true
	}
	return false
}

func isHealth(info *request.Info) bool {
	switch first, _, _ := strings.Cut(strings.TrimPrefix(info.Path, "/"), "/"); first {
	case "healthz", "livez", "readyz":
		return true
	}
	return false
}

// bound limits how long a request may take: the time that its timeout
// parameter asks for, at most requestTime. Watches, logs and connections last
// as long as their client, or until the server drains.
func (s *Server) bound(w http.ResponseWriter, r *http.Request, long bool) (context.Context, context.CancelFunc, error) {
	if long {
		ctx, cancel := context.WithCancel(r.Context())
		stop := context.AfterFunc(s.draining, cancel)
		return ctx, func() { stop(); cancel() }, nil
	}
	within := requestTime
	if v := timeoutOf(r); v != "" {
		asked, err := time.ParseDuration(v)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err))
		}
		if asked > 0 {
			within = min(asked, requestTime)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), within)
	if r.Body == nil || r.ContentLength == 0 {
		return ctx, cancel, nil
	}
	// A body that is sent too slowly is not waited for; transports that know no
	// deadlines end with their client.
	slow := newCutter(func() { _ = http.NewResponseController(w).SetReadDeadline(past) })
	slow.within(within)
	return ctx, func() { slow.end(); cancel() }, nil
}

func timeoutOf(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return r.URL.Query().Get("timeout")
}

func longRunning(info *request.Info, r *http.Request) bool {
	if info.Verb == "watch" {
		return true
	}
	switch info.Subresource {
	case "exec", "attach", "portforward", "proxy":
		return true
	case "log":
		return isTrue(r.URL.Query().Get("follow"))
	}
	return strings.HasPrefix(info.Path, "/debug/pprof/")
}
