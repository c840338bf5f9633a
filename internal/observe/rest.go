package observe

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RESTClient counts what a component asks of the API server, under upstream's
// names.
type RESTClient struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
}

// NewRESTClient returns one whose metrics are in r.
func NewRESTClient(r prometheus.Registerer) *RESTClient {
	c := &RESTClient{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rest_client_requests_total", Help: "Number of HTTP requests, partitioned by status code, method, and host.",
		}, []string{"code", "method", "host"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rest_client_request_duration_seconds", Help: "Request latency in seconds. Broken down by verb, and host.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0},
		}, []string{"verb", "host"}),
	}
	r.MustRegister(c.requests, c.durations)
	return c
}

// Wrap returns a transport that counts what goes through next.
func (c *RESTClient) Wrap(next http.RoundTripper) http.RoundTripper { return &counted{c, next} }

type counted struct {
	to   *RESTClient
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := c.next.RoundTrip(r)
	code := "<error>"
	if err == nil {
		code = strconv.Itoa(resp.StatusCode)
	}
	c.to.requests.WithLabelValues(code, r.Method, r.URL.Host).Inc()
	c.to.durations.WithLabelValues(r.Method, r.URL.Host).Observe(time.Since(began).Seconds())
	return resp, err
}

// WrappedRoundTripper lets client-go reach the connection below.
func (c *counted) WrappedRoundTripper() http.RoundTripper { return c.next }
