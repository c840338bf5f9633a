package e2e

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"skiff.dev/skiff/test/e2e/machine"
)

// visitor asks for a URL again and again, each time on a new connection, and
// counts what fails.
type visitor struct {
	served, failed atomic.Int64
	stop           chan struct{}
	done           sync.WaitGroup
	mu             sync.Mutex
	first          error
}

// visit starts a visitor that stands outside of the cluster.
func visit(sw *machine.Switch, url string) *visitor {
	v := &visitor{stop: make(chan struct{})}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: sw.Dial, DisableKeepAlives: true}}
	v.done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-v.stop:
				return
			case <-tick.C:
			}
			if _, err := get(client, url); err != nil {
				v.failed.Add(1)
				v.mu.Lock()
				if v.first == nil {
					v.first = fmt.Errorf("%s: %w", time.Now().Format(time.TimeOnly), err)
				}
				v.mu.Unlock()
				continue
			}
			v.served.Add(1)
		}
	})
	return v
}

// end stops the visitor, who must have been served each time.
func (v *visitor) end(t *testing.T) {
	t.Helper()
	close(v.stop)
	v.done.Wait()
	if v.failed.Load() > 0 || v.served.Load() == 0 {
		t.Errorf("%d requests were served and %d failed, the first with: %v", v.served.Load(), v.failed.Load(), v.first)
	}
	t.Logf("%d requests, none failed", v.served.Load())
}

// get returns the body of a 200.
func get(client *http.Client, url string) (string, error) {
	res, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return string(body), err
}
