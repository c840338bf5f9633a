package http2_test

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

// TestSpec runs h2spec, which goes through the RFCs 9113 (7540) and 7541: what is to be answered to frames and header
// blocks of all kinds, most of them malformed.
func TestSpec(t *testing.T) {
	s := start(t, options, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello")
	})
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	passed, err := h2spec.Run(&config.Config{
		Host: host, Port: n, Path: "/", Timeout: 10 * time.Second, MaxHeaderLen: 4000, TLS: true, Insecure: true, Strict: true,
	})
	if err != nil || !passed {
		t.Errorf("not all of h2spec passed (%v)", err)
	}
}
