package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"sort"
	"strconv"
	"strings"

	"skiff.dev/skiff/internal/version"
)

// A Check is one condition of health, shown by name.
type Check struct {
	Name string
	Do   func(ctx context.Context) error
}

// servePage serves what is not a resource: health, version, discovery, metrics.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	p := strings.TrimSuffix(r.URL.Path, "/")
	if page, ok := s.Pages[p]; ok {
		page.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeError(w, r, errNoMethod)
		return
	}
	switch first, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/"); first {
	case "":
		s.serveIndex(w)
	case "version":
		writeJSON(w, version.Info())
	case "healthz", "livez":
		serveChecks(w, r, first, rest, s.Live)
	case "readyz":
		serveChecks(w, r, first, rest, append([]Check{{Name: "shutdown", Do: s.notDraining}}, s.Ready...))
	case "debug":
		serveProfile(w, r, p)
	case "openapi":
		s.openapi.ServeHTTP(w, r)
	case "api", "apis":
		s.serveDiscovery(w, r, p)
	default:
		notFoundPage(w)
	}
}

func (s *Server) notDraining(context.Context) error {
	if s.draining.Err() != nil {
		return fmt.Errorf("the server is shutting down")
	}
	return nil
}

// serveIndex lists the paths that there are.
func (s *Server) serveIndex(w http.ResponseWriter) {
	paths := []string{"/api", "/api/v1", "/apis", "/debug/pprof", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"}
	for _, g := range s.discovery.groups {
		paths = append(paths, "/apis/"+g.Name)
		for _, v := range g.Versions {
			paths = append(paths, "/apis/"+v.GroupVersion)
		}
	}
	for p := range s.Pages {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	writeJSON(w, map[string][]string{"paths": paths})
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // the client may have gone
}

// serveChecks runs the checks of one health endpoint, or the one named by
// rest. https://kubernetes.io/docs/reference/using-api/health-checks/
func serveChecks(w http.ResponseWriter, r *http.Request, endpoint, rest string, checks []Check) {
	q := r.URL.Query()
	excluded := map[string]bool{}
	for _, name := range q["exclude"] {
		excluded[name] = true
	}
	var report strings.Builder
	failed, found := false, rest == ""
	for _, c := range append([]Check{{Name: "ping", Do: func(context.Context) error { return nil }}}, checks...) {
		switch {
		case rest != "" && rest != c.Name:
			continue
		case excluded[c.Name]:
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.Name)
			delete(excluded, c.Name)
			found = true
			continue
		}
		found = true
		if err := c.Do(r.Context()); err != nil {
			failed = true
			// The reason may name internals; it is for the log, not for anonymous.
			fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", c.Name)
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", c.Name)
	}
	if rest == "" && len(excluded) > 0 {
		names := slices.Sorted(maps.Keys(excluded))
		fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(quoted(names), ", "))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache, private")
	switch {
	case !found:
		http.NotFound(w, r)
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", report.String(), endpoint)
	case q.Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", report.String(), endpoint)
	default:
		fmt.Fprint(w, "ok")
	}
}

func quoted(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strconv.Quote(n)
	}
	return out
}

// serveProfile serves the profiles of Go's runtime below /debug/pprof/.
func serveProfile(w http.ResponseWriter, r *http.Request, p string) {
	switch p {
	case "/debug/pprof/cmdline":
		pprof.Cmdline(w, r)
	case "/debug/pprof/profile":
		pprof.Profile(w, r)
	case "/debug/pprof/symbol":
		pprof.Symbol(w, r)
	case "/debug/pprof/trace":
		pprof.Trace(w, r)
	default:
		if p != "/debug/pprof" && !strings.HasPrefix(p, "/debug/pprof/") {
			notFoundPage(w)
			return
		}
		pprof.Index(w, r)
	}
}
