package leaderelection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/testing/controltest"
)

// line is a connection that can be cut and slowed down.
type line struct {
	client.Transport
	mu  sync.Mutex
	cut bool
	lag time.Duration
}

func (l *line) set(cut bool, lag time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.lag = cut, lag
}

func (l *line) pass(ctx context.Context) error {
	l.mu.Lock()
	cut, lag := l.cut, l.lag
	l.mu.Unlock()
	if cut {
		<-ctx.Done() // as packets that are dropped
		return ctx.Err()
	}
	select {
	case <-time.After(lag):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *line) Get(ctx context.Context, ref client.Ref, o metav1.GetOptions) (meta.Object, error) {
	if err := l.pass(ctx); err != nil {
		return nil, err
	}
	return l.Transport.Get(ctx, ref, o)
}

func (l *line) Create(ctx context.Context, ref client.Ref, obj runtime.Object, o metav1.CreateOptions) (runtime.Object, error) {
	if err := l.pass(ctx); err != nil {
		return nil, err
	}
	return l.Transport.Create(ctx, ref, obj, o)
}

func (l *line) Update(ctx context.Context, ref client.Ref, obj meta.Object, o metav1.UpdateOptions) (meta.Object, error) {
	if err := l.pass(ctx); err != nil {
		return nil, err
	}
	return l.Transport.Update(ctx, ref, obj, o)
}

// candidate is a process that stands for election again and again.
type candidate struct {
	*Elector
	line *line
	job  func(context.Context) error
	stop context.CancelFunc
	end  chan error // gets what the first Run ends with
}

func stand(t *testing.T, w *controltest.World, name string) *candidate {
	t.Helper()
	c := &candidate{line: &line{Transport: w.Client.Transport}, end: make(chan error, 1)}
	e, err := New(client.New(c.line), w.Events, Default("job", name))
	if err != nil {
		t.Fatal(err)
	}
	c.Elector = e
	c.job = func(ctx context.Context) error { <-ctx.Done(); return nil }
	return c
}

func (c *candidate) run(t *testing.T) *candidate {
	ctx, stop := context.WithCancel(t.Context())
	c.stop = stop
	go func() { c.end <- c.Run(ctx, c.job) }()
	return c
}

func world(t *testing.T) *controltest.World {
	w := controltest.New(t)
	controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
	return w
}

func TestTakesOver(t *testing.T) {
	tests := []struct {
		name       string
		end        func(*candidate)
		from, till time.Duration // when the second leads, from the end of the first
		ended      error
	}{
		{"released", func(c *candidate) { c.stop() }, 0, time.Second, nil},
		{"cut off", func(c *candidate) { c.line.set(true, 0) }, 13 * time.Second, 16 * time.Second, ErrLost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world(t)
				defer w.Close()
				a := stand(t, w, "a").run(t)
				w.Settle()
				b := stand(t, w, "b").run(t)
				time.Sleep(time.Hour)
				if !a.Leading() || b.Leading() {
					t.Fatalf("a leads: %t, b leads: %t", a.Leading(), b.Leading())
				}
				start := time.Now()
				tt.end(a)
				for !b.Leading() && time.Since(start) < time.Minute {
					time.Sleep(100 * time.Millisecond)
					if a.Leading() && b.Leading() {
						t.Fatal("both lead")
					}
				}
				if took := time.Since(start); took < tt.from || took > tt.till {
					t.Errorf("the other leads after %s", took)
				}
				if err := <-a.end; !errors.Is(err, tt.ended) {
					t.Errorf("the first ended with %v", err)
				}
				if got := w.Events.With("LeaderElection"); len(got) != 3 || !strings.HasSuffix(got[2], "b became leader") {
					t.Errorf("events %q", got)
				}
				if n := controltest.Get[*coordinationv1.Lease](w, "kube-system", "job").Spec.LeaseTransitions; *n != 1 {
					t.Errorf("%d transitions", *n)
				}
				b.stop()
				<-b.end
			})
		})
	}
}

func TestStandbyDoesNotPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t)
		defer w.Close()
		a := stand(t, w, "a").run(t)
		w.Settle()
		b := stand(t, w, "b")
		reads := &counting{Transport: w.Client.Transport}
		b.Elector.client = client.New(reads)
		b.run(t)
		time.Sleep(time.Hour)
		w.Settle()
		reads.mu.Lock()
		if reads.n > 3 {
			t.Errorf("%d reads in an hour", reads.n)
		}
		reads.mu.Unlock()
		a.stop()
		b.stop()
		<-a.end
		<-b.end
	})
}

type counting struct {
	client.Transport
	mu sync.Mutex
	n  int
}

func (c *counting) Get(ctx context.Context, ref client.Ref, o metav1.GetOptions) (meta.Object, error) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	return c.Transport.Get(ctx, ref, o)
}

// What other clocks say does not matter: a lease from the future or the past
// expires when it has not been renewed for its duration.
func TestOtherClocks(t *testing.T) {
	for _, jump := range []time.Duration{-365 * 24 * time.Hour, -time.Hour, time.Hour, 365 * 24 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world(t)
				defer w.Close()
				holder, seconds, at := "other", int32(15), metav1.NewMicroTime(time.Now().Add(jump))
				lease := controltest.Create(w, &coordinationv1.Lease{
					ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "job"},
					Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &at, AcquireTime: &at},
				})
				a := stand(t, w, "a").run(t)
				for range 10 { // the other lives and renews, by its own clock
					time.Sleep(10 * time.Second)
					at = metav1.NewMicroTime(at.Add(10 * time.Second))
					controltest.Update(w, lease, func(l *coordinationv1.Lease) { l.Spec.RenewTime = &at })
					if a.Leading() {
						t.Fatal("took over from one who lives")
					}
				}
				time.Sleep(16 * time.Second)
				if !a.Leading() {
					t.Error("did not take over from one who is dead")
				}
				a.stop()
				<-a.end
			})
		})
	}
}

// I22: with lines that are cut and slow at random, the writes of two leaders
// never interleave.
func TestWritesNeverInterleave(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world(t)
				defer w.Close()
				rnd := rand.New(rand.NewPCG(seed, 0))
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				var all []*candidate
				var terms atomic.Int64
				for i := range 3 {
					c := stand(t, w, fmt.Sprint("c", i))
					c.job = writer(c, &terms)
					all = append(all, c)
					wg.Go(func() {
						for ctx.Err() == nil {
							if err := c.Run(ctx, c.job); err != nil && !errors.Is(err, ErrLost) {
								t.Error(err)
							}
						}
					})
				}
				for range 50 {
					c := all[rnd.IntN(len(all))]
					c.line.set(rnd.IntN(3) == 0, time.Duration(rnd.IntN(4000))*time.Millisecond)
					time.Sleep(time.Duration(rnd.IntN(20000)) * time.Millisecond)
				}
				cancel()
				wg.Wait()
				check(t, controltest.List[*corev1.ConfigMap](w, "kube-system"))
			})
		})
	}
}

// writer returns a job that writes one object after the other with the number
// of its term. It takes no notice of its context, as a goroutine that is late
// would not.
func writer(c *candidate, terms *atomic.Int64) func(context.Context) error {
	kind := client.For[*corev1.ConfigMap](client.New(c.Fence(c.line)))
	return func(ctx context.Context) error {
		term := fmt.Sprint(terms.Add(1))
		for late := 0; late < 60; {
			_, err := kind.Create(context.WithoutCancel(ctx), &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", GenerateName: "w-"}, Data: map[string]string{"term": term},
			})
			if ctx.Err() != nil {
				if late++; err != nil {
					return nil
				}
			}
			time.Sleep(500 * time.Millisecond)
		}
		return nil
	}
}

// check looks, in the order of writing, for one who writes after his successor.
func check(t *testing.T, written []*corev1.ConfigMap) {
	t.Helper()
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	slices.SortFunc(written, func(a, b *corev1.ConfigMap) int {
		return cmp.Compare(number(a.ResourceVersion), number(b.ResourceVersion))
	})
	last, terms := 0, 0
	for _, c := range written {
		term := number(c.Data["term"])
		if term < last {
			t.Fatalf("term %d wrote after term %d", term, last)
		}
		if term > last {
			terms++
		}
		last = term
	}
	if len(written) < 20 || terms < 2 {
		t.Errorf("only %d writes in %d terms", len(written), terms)
	}
}
