package robustness

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	churnObjects = 1000
	churnWatches = 200
	// A server has some goroutines and files more or less at any moment; what
	// leaks does so by the object or by the watch.
	slack = 20
	// historyLasts is how long the store keeps what has been deleted, and a bit.
	historyLasts = 11 * time.Minute
	// perObject is what may stay of an object until then: its two revisions in
	// the store's index and its events.
	perObject = 8 << 10
)

// holds is what a server has in use.
type holds struct {
	goroutines, files int
	heap, rss         int64
}

func (h holds) String() string {
	return fmt.Sprintf("%d goroutines, %d files, heap %d KiB, RSS %d KiB", h.goroutines, h.files, h.heap>>10, h.rss>>10)
}

// TestChurn makes and deletes objects under many watches, round after round:
// each time goroutines and files must be back at what they were, and memory
// may not grow by more than history (I38). The long variant waits until history
// is over, when memory has to be back too.
func TestChurn(t *testing.T) {
	s := newServer(t)
	s.start()
	s.ready(startup)
	rounds := 4
	if long() {
		rounds = 20
	}
	s.churn() // fills pools, rings and connections for the first time
	before := s.settle(holds{})
	t.Logf("before: %v", before)
	var after holds
	for n := range rounds {
		s.churn()
		after = s.settle(before)
		t.Logf("after round %d: %v", n+1, after)
		if after.goroutines > before.goroutines+slack || after.files > before.files+slack {
			t.Fatalf("I38: round %d has left something behind: %v; before there were %v", n+1, after, before)
		}
	}
	if grown := after.heap - before.heap; grown > int64(rounds*churnObjects*perObject) {
		t.Errorf("I38: the heap has grown by %d bytes for each object that came and went", grown/int64(rounds*churnObjects))
	}
	if !long() {
		return
	}
	end := time.Now().Add(historyLasts)
	for ; after.heap > before.heap*11/10 && time.Now().Before(end); after = s.settle(before) {
		time.Sleep(10 * time.Second) // between looks; nothing tells when history has gone
	}
	t.Logf("at rest: %v", after)
	if after.heap > before.heap*11/10 {
		t.Errorf("I38: the heap was %d bytes and is %d, %v after everything was deleted", before.heap, after.heap, historyLasts)
	}
}

// churn opens watches, half of them over connections of their own, creates
// objects that all of them must be told of, deletes these, and closes the watches.
func (s *server) churn() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	api := s.client()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var watches, told sync.WaitGroup
	for n := range churnWatches {
		from := api
		if n%2 == 0 {
			from = s.apart()
		}
		w, err := from.CoreV1().ConfigMaps(namespace).Watch(watching, metav1.ListOptions{LabelSelector: "churn=yes"})
		if err != nil {
			s.t.Fatal(err)
		}
		told.Add(1)
		watches.Go(func() {
			defer w.Stop()
			missing := 2 * churnObjects // came and went
			for missing > 0 {
				if _, ok := <-w.ResultChan(); !ok {
					break
				}
				missing--
			}
			if missing > 0 {
				s.t.Errorf("a watch ended with %d events missing", missing)
			}
			told.Done()
			<-watching.Done()
		})
	}
	each(10, churnObjects, func(n int) {
		_, err := api.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("churn-", n), Labels: map[string]string{"churn": "yes"}}, Data: map[string]string{"n": strconv.Itoa(n)},
		}, metav1.CreateOptions{})
		if err == nil {
			err = api.CoreV1().ConfigMaps(namespace).Delete(ctx, fmt.Sprint("churn-", n), metav1.DeleteOptions{})
		}
		if err != nil {
			s.t.Error(err)
		}
	})
	told.Wait()
	stop()
	watches.Wait()
}

// apart returns a client whose requests have a connection each, which ends with
// them.
func (s *server) apart() *kubernetes.Clientset {
	s.t.Helper()
	cfg := s.config()
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	api, err := kubernetes.NewForConfigAndClient(cfg, &http.Client{Transport: &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true}})
	if err != nil {
		s.t.Fatal(err)
	}
	return api
}

// each calls f with 0 to n-1 from some workers at once.
func each(workers, n int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range workers {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// settle reads what the server holds until it is back at what it was, or some
// time has passed: connections are closed when the other side has noticed.
func (s *server) settle(was holds) holds {
	s.t.Helper()
	var last holds
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		now := s.holds()
		steady := now.goroutines == last.goroutines && now.files == last.files
		last = now
		if steady && (was == holds{} || now.goroutines <= was.goroutines+slack && now.files <= was.files+slack) {
			break
		}
	}
	return last
}

var (
	goroutines = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapAlloc  = regexp.MustCompile(`# HeapAlloc = (\d+)`)
	rss        = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)
)

// holds reads what the server has in use now, after a garbage collection.
func (s *server) holds() (h holds) {
	s.t.Helper()
	api := s.client().CoreV1().RESTClient()
	page := func(path string) string {
		text, err := api.Get().AbsPath("/debug/pprof/"+path).Param("debug", "1").Param("gc", "1").DoRaw(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		return string(text)
	}
	h.heap = s.number(heapAlloc, page("heap"))
	h.goroutines = int(s.number(goroutines, page("goroutine")))
	proc := fmt.Sprint("/proc/", s.cmd.Process.Pid)
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		s.t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		s.t.Fatal(err)
	}
	h.files, h.rss = len(files), s.number(rss, string(status))<<10
	return h
}

func (s *server) number(what *regexp.Regexp, in string) int64 {
	s.t.Helper()
	m := what.FindStringSubmatch(in)
	if m == nil {
		s.t.Fatalf("no %v in %.200s", what, in)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
