package apiserver

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skiff.dev/skiff/internal/apiserver/request"
)

// Observer is told what the server does.
type Observer interface {
	// Began is told of every request; what it returns, of its end.
	Began(m Measured) (ended func(code int, size int64))
	// Watched is told of a watch; what it returns, of the events that it writes
	// and their size in bytes.
	Watched(m Measured) (sent func(events, size int))
	// InFlight is told how many requests of a kind ("readOnly" or "mutating")
	// are being served.
	InFlight(kind string, n int)
}

// Measured is a request as metrics see it: only values that are few, whatever
// clients ask for.
type Measured struct {
	Verb, DryRun, Group, Version, Resource, Subresource, Scope string
	LongRunning                                                bool
}

// measured reduces a request to what metrics show.
func (s *Server) measured(info *request.Info, dry, long bool) Measured {
	m := Measured{Verb: metricVerb(info), LongRunning: long}
	if dry {
		m.DryRun = "All"
	}
	if _, served := s.subresources[subresource{info.Group, info.Version, info.Resource, info.Subresource}]; !info.IsResource || !served {
		return m
	}
	m.Group, m.Version, m.Resource, m.Subresource = info.Group, info.Version, info.Resource, info.Subresource
	switch {
	case info.Name != "" && info.FieldSelector == "" || info.Verb == "create":
		m.Scope = "resource"
	case info.Namespace != "":
		m.Scope = "namespace"
	default:
		m.Scope = "cluster"
	}
	return m
}

// subresource names one thing that is served.
type subresource struct{ group, version, resource, name string }

var metricVerbs = map[string]string{
	"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH",
	"delete": "DELETE", "deletecollection": "DELETECOLLECTION", "post": "POST", "put": "PUT", "head": "HEAD", "options": "OPTIONS",
}

func metricVerb(info *request.Info) string {
	switch info.Subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return "CONNECT"
	}
	if v := metricVerbs[info.Verb]; v != "" {
		return v
	}
	return "other"
}

// Metrics is an Observer that counts, under upstream's names and labels.
// https://kubernetes.io/docs/reference/instrumentation/metrics/
type Metrics struct {
	requests   *prometheus.CounterVec
	durations  *prometheus.HistogramVec
	sizes      *prometheus.HistogramVec
	inFlight   *prometheus.GaugeVec
	longRun    *prometheus.GaugeVec
	events     *prometheus.CounterVec
	eventSizes *prometheus.HistogramVec
	series     sync.Map // Measured, of which there are few, to *series
}

var (
	requestLabels = []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
	durations     = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
)

// NewMetrics returns an Observer whose metrics are in reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gvr := []string{"group", "version", "resource"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
		}, append(requestLabels, "code")),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: durations,
		}, requestLabels),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_response_sizes",
			Help:    "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
			Buckets: prometheus.ExponentialBuckets(1000, 10, 7),
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests",
			Help: "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
		}, []string{"request_kind"}),
		longRun: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests",
			Help: "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_watch_events_total", Help: "Number of events sent in watch clients",
		}, gvr),
		eventSizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_watch_events_sizes", Help: "Watch event size distribution in bytes",
			Buckets: prometheus.ExponentialBuckets(1024, 2, 8),
		}, gvr),
	}
	reg.MustRegister(m.requests, m.durations, m.sizes, m.inFlight, m.longRun, m.events, m.eventSizes)
	return m
}

const component = "apiserver"

// series are the metrics of requests that are measured alike, looked up once.
type series struct {
	running  prometheus.Gauge // nil unless they are long-running
	duration prometheus.Observer
	size     prometheus.Observer // nil unless they are reads
	labels   []string
	byCode   sync.Map // int to prometheus.Counter
}

func (m *Metrics) seriesOf(q Measured) *series {
	if s, ok := m.series.Load(q); ok {
		return s.(*series)
	}
	s := &series{labels: []string{q.Verb, q.DryRun, q.Group, q.Version, q.Resource, q.Subresource, q.Scope, component}}
	s.duration = m.durations.WithLabelValues(s.labels...)
	if q.LongRunning {
		s.running = m.longRun.WithLabelValues(q.Verb, q.Group, q.Version, q.Resource, q.Subresource, q.Scope, component)
	}
	if q.Verb == "GET" || q.Verb == "LIST" {
		s.size = m.sizes.WithLabelValues(q.Verb, q.Group, q.Version, q.Resource, q.Subresource, q.Scope, component)
	}
	kept, _ := m.series.LoadOrStore(q, s)
	return kept.(*series)
}

func (m *Metrics) requestsOf(s *series, code int) prometheus.Counter {
	if c, ok := s.byCode.Load(code); ok {
		return c.(prometheus.Counter)
	}
	c := m.requests.WithLabelValues(append(slices.Clone(s.labels), strconv.Itoa(code))...)
	s.byCode.Store(code, c)
	return c
}

// Began implements Observer.
func (m *Metrics) Began(q Measured) func(int, int64) {
	start, s := time.Now(), m.seriesOf(q)
	if s.running != nil {
		s.running.Inc()
	}
	return func(code int, size int64) {
		if s.running != nil {
			s.running.Dec()
		}
		s.duration.Observe(time.Since(start).Seconds())
		m.requestsOf(s, code).Inc()
		if s.size != nil {
			s.size.Observe(float64(size))
		}
	}
}

// Watched implements Observer.
func (m *Metrics) Watched(q Measured) func(int, int) {
	count := m.events.WithLabelValues(q.Group, q.Version, q.Resource)
	sizes := m.eventSizes.WithLabelValues(q.Group, q.Version, q.Resource)
	return func(events, size int) {
		count.Add(float64(events))
		sizes.Observe(float64(size) / float64(max(events, 1)))
	}
}

// InFlight implements Observer.
func (m *Metrics) InFlight(kind string, n int) { m.inFlight.WithLabelValues(kind).Set(float64(n)) }

// unobserved is the Observer of a server that has none.
type unobserved struct{}

func (unobserved) Began(Measured) func(int, int64) { return func(int, int64) {} }
func (unobserved) Watched(Measured) func(int, int) { return func(int, int) {} }
func (unobserved) InFlight(string, int)            {}

// Collector returns the number of stored objects per resource, counted when
// asked for: register it with the registry of the other metrics.
func (s *Server) Collector() prometheus.Collector { return &objectCount{s} }

type objectCount struct{ s *Server }

var (
	storageObjects = prometheus.NewDesc("apiserver_storage_objects",
		"[DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind.", []string{"resource"}, nil)
	resourceObjects = prometheus.NewDesc("apiserver_resource_objects",
		"Number of stored objects at the time of last check split by kind.", []string{"group", "resource"}, nil)
)

// Describe implements prometheus.Collector.
func (c *objectCount) Describe(ch chan<- *prometheus.Desc) {
	ch <- storageObjects
	ch <- resourceObjects
}

// Collect implements prometheus.Collector.
func (c *objectCount) Collect(ch chan<- prometheus.Metric) {
	for _, r := range c.s.engine.Resources() {
		if r.Table() == nil {
			continue
		}
		gr, n := r.Info().Name.GroupResource(), float64(r.Table().Len())
		ch <- prometheus.MustNewConstMetric(storageObjects, prometheus.GaugeValue, n, gr.String())
		ch <- prometheus.MustNewConstMetric(resourceObjects, prometheus.GaugeValue, n, gr.Group, gr.Resource)
	}
}

// servedParts lists all that metrics may name.
func servedParts(s *Server) map[subresource]struct{} {
	parts := map[subresource]struct{}{}
	for gv, list := range s.discovery.resources {
		group, version, ok := strings.Cut(gv, "/")
		if !ok {
			group, version = "", gv
		}
		for _, r := range list.APIResources {
			resource, sub, _ := strings.Cut(r.Name, "/")
			parts[subresource{group, version, resource, sub}] = struct{}{}
		}
	}
	return parts
}
