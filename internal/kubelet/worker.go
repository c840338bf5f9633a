package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/kubelet/podsync/steps"
	"skiff.dev/skiff/internal/kubelet/status"
	"skiff.dev/skiff/internal/pod"
)

// worker goes round for one pod: see, compute, act, remember. It sleeps until
// the pod, its containers, a probe or the plan's own time calls it.
type worker struct {
	k      *Kubelet
	uid    types.UID
	name   string // namespace/name
	static bool
	came   time.Time // when the kubelet first saw the pod

	mu      sync.Mutex
	pod     *v1.Pod // as wanted
	gone    bool
	evicted *podsync.Eviction
	status  *v1.PodStatus // as last worked out; nil before
	wake    chan struct{}
	changed atomic.Bool // what the runtime has may not be what was seen

	// The rest belongs to the worker's own goroutine.
	memory   *podsync.Memory
	eyes     observer
	seen     podsync.Seen // at the last look
	flights  map[string]*flight
	landed   chan *flight
	messages map[string]string // termination messages by instance
	removed  bool              // the API was asked to delete the pod
	trouble  int               // failed looks at the runtime in a row
	started  bool              // the pod has run, or had before it came
}

// flight is an action on its way.
type flight struct {
	action podsync.Action
	cancel context.CancelFunc
	result podsync.Result
}

func newWorker(k *Kubelet, pod *v1.Pod, gone bool, evicted *podsync.Eviction) *worker {
	w := &worker{
		k: k, uid: pod.UID, name: fullName(pod), static: isStatic(pod), came: time.Now(),
		started: pod.Status.Phase != v1.PodPending && pod.Status.Phase != "",
		pod:     pod, gone: gone, evicted: evicted, wake: make(chan struct{}, 1),
		memory: podsync.NewMemory(), eyes: newObserver(k.Runtime, pod.UID),
		flights: map[string]*flight{}, landed: make(chan *flight), messages: map[string]string{},
	}
	w.changed.Store(true)
	return w
}

// look makes the worker go round with a look at the runtime.
func (w *worker) look() {
	w.changed.Store(true)
	w.poke()
}

// poke makes the worker go round.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// update gives the worker the newest state of its pod; gone where the API has
// it no more.
func (w *worker) update(pod *v1.Pod, gone bool) {
	w.mu.Lock()
	if pod != nil {
		w.pod = pod
	}
	w.gone = w.gone || gone
	w.mu.Unlock()
	w.poke()
}

// evict makes the pod fail. The first reason stays.
func (w *worker) evict(e podsync.Eviction) {
	w.mu.Lock()
	if w.evicted == nil {
		w.evicted = &e
	}
	w.mu.Unlock()
	w.poke()
}

// current returns the pod with the status as last worked out. It is a copy.
func (w *worker) current() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := *w.pod
	if w.status != nil {
		pod.Status = overlay(&w.pod.Status, w.status)
	}
	return &pod
}

// run goes round until the pod is forgotten or ctx ends. It returns when no
// action is in flight.
func (w *worker) run(ctx context.Context) {
	defer w.land()
	w.recallGroup()
	w.recallEnding()
	for ctx.Err() == nil {
		wake, done := w.round(ctx)
		if done {
			return
		}
		w.sleep(ctx, wake)
	}
}

// land waits for the actions in flight, which end soon as their context has.
func (w *worker) land() {
	for len(w.flights) > 0 {
		f := <-w.landed
		delete(w.flights, f.action.Key())
	}
}

// sleep waits for a call, an action's end or the time, whichever is first.
func (w *worker) sleep(ctx context.Context, wake time.Time) {
	var timeout <-chan time.Time
	if !wake.IsZero() {
		t := time.NewTimer(max(time.Until(wake), time.Millisecond))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-ctx.Done():
	case <-w.wake:
	case f := <-w.landed:
		w.done(f)
	case <-timeout:
		w.changed.Store(true)
	}
	for { // whatever else has happened meanwhile is one look too
		select {
		case f := <-w.landed:
			w.done(f)
		default:
			return
		}
	}
}

// round looks once, if what the runtime has may have changed, and acts. It
// returns when to look again, zero for when called, and whether the pod is
// forgotten.
func (w *worker) round(ctx context.Context) (time.Time, bool) {
	var err error
	if w.changed.Swap(false) {
		w.seen, err = w.eyes.look(ctx)
	}
	seen := w.seen
	if err != nil {
		w.changed.Store(true)
		w.trouble++
		if w.trouble == 1 && ctx.Err() == nil {
			w.k.Log.Warn("looking at a pod's containers", "pod", w.name, "uid", w.uid, "err", err)
		}
		return time.Now().Add(min(time.Second<<min(w.trouble, 4), 10*time.Second)), false
	}
	w.trouble = 0
	pod := w.current()
	w.mu.Lock()
	gone, evicted := w.gone, w.evicted
	w.mu.Unlock()
	w.watchProbes(pod, seen)
	now := time.Now()
	plan := podsync.Compute(podsync.Input{Pod: pod, Gone: gone, Evicted: evicted, Seen: seen, Memory: w.memory}, now)
	if plan.Stage != podsync.Active && w.memory.EndSince.IsZero() {
		w.memory.EndSince = now
		w.rememberEnding()
	}
	if until := podsync.Replacing(pod, seen, now); plan.Stage == podsync.Active && !until.IsZero() {
		if plan.Wake.IsZero() || until.Before(plan.Wake) {
			plan.Wake = until
		}
	} else {
		w.report(pod, seen, plan, evicted, gone, now)
	}
	if plan.Stage == podsync.Forgotten {
		return time.Time{}, true
	}
	w.act(ctx, plan)
	return plan.Wake, false
}

// act starts the plan's actions and cancels what it gives up. An action whose
// key is still taken replaces the one in flight: that is cancelled, and the
// next round plans the new one when it has ended.
func (w *worker) act(ctx context.Context, plan podsync.Plan) {
	for _, key := range plan.Cancel {
		if f := w.flights[key]; f != nil {
			f.cancel()
		}
	}
	pod := w.current()
	for _, a := range plan.Actions {
		if f := w.flights[a.Key()]; f != nil {
			f.cancel()
			continue
		}
		actx, cancel := context.WithCancel(ctx)
		f := &flight{action: a, cancel: cancel}
		w.flights[a.Key()] = f
		w.memory.Begin(a)
		go func() {
			defer cancel()
			f.result = w.k.steps.Do(actx, pod, a)
			if actx.Err() != nil && f.result.Err != nil {
				f.result.Err = errors.Join(podsync.ErrCancelled, f.result.Err)
			}
			w.landed <- f
		}()
	}
}

func (w *worker) done(f *flight) {
	delete(w.flights, f.action.Key())
	w.memory.Done(f.action, f.result, time.Now())
	switch f.action.(type) {
	case podsync.MountVolumes, podsync.PullImage, podsync.ReportBackoff: // nothing that the runtime shows
	default:
		w.changed.Store(true)
	}
	if err := f.result.Err; err != nil && !errors.Is(err, podsync.ErrCancelled) {
		w.k.Log.Warn("syncing a pod", "pod", w.name, "uid", w.uid, "action", reflect.TypeOf(f.action).Name(), "err", err)
	}
	if _, ok := f.action.(podsync.RunPreStop); ok {
		w.rememberEnding()
	}
}

// report works out the pod's status and hands it to the writer if it changed,
// or if all has ended and the pod may be deleted.
func (w *worker) report(pod *v1.Pod, seen podsync.Seen, plan podsync.Plan, evicted *podsync.Eviction, gone bool, now time.Time) {
	if gone {
		return // there is nothing left to report on
	}
	w.readMessages(pod, seen)
	next := status.Make(status.Input{
		Pod: pod, Seen: seen, Plan: plan, Memory: w.memory, Evicted: evicted, Messages: w.messages,
		HostIPs: w.k.HostIPs(), Runtime: w.k.runtimeName, Now: now,
	})
	if !w.started && next.Phase == v1.PodRunning {
		w.started = true
		w.k.metrics.started(now.Sub(w.came))
	}
	remove := plan.Stage == podsync.Stopped && pod.DeletionTimestamp != nil
	w.mu.Lock()
	same := w.status != nil && !w.static && equality.Semantic.DeepEqual(w.pod.Status, next)
	w.status = &next
	w.mu.Unlock()
	if same && (!remove || w.removed) {
		return
	}
	w.removed = w.removed || remove
	w.k.writer.Set(w.uid, next, remove)
}

// readMessages reads the termination messages of instances that have ended
// since the last look.
func (w *worker) readMessages(pod *v1.Pod, seen podsync.Seen) {
	known := w.messages
	w.messages = map[string]string{}
	for i := range seen.Containers {
		c := &seen.Containers[i]
		if c.State != podsync.Exited {
			continue
		}
		text, ok := known[c.ID]
		if !ok {
			text = status.Message(w.k.Layout, pod, c)
		}
		w.messages[c.ID] = text
	}
}

// watchProbes gives the running containers to the prober and takes over what
// it has found so far.
func (w *worker) watchProbes(pod *v1.Pod, seen podsync.Seen) {
	running := map[string]bool{}
	for i := range seen.Containers {
		c := &seen.Containers[i]
		if _, starting := w.memory.Busy[podsync.ContainerKey(c.Name)]; starting || c.State != podsync.Running {
			continue
		}
		running[c.ID] = true
		w.memory.Probes[c.ID] = w.k.prober.Watch(pod, c, hostOf(pod, seen), w.poke)
	}
	for id := range w.memory.Probes {
		if !running[id] {
			w.k.prober.Forget(id)
			delete(w.memory.Probes, id)
		}
	}
}

// hostOf is the address at which the pod is probed.
func hostOf(pod *v1.Pod, seen podsync.Seen) string {
	for i := range seen.Sandboxes {
		if sb := &seen.Sandboxes[i]; sb.Ready && len(sb.IPs) > 0 {
			return sb.IPs[0]
		}
	}
	return pod.Status.PodIP
}

// recallGroup takes over the control group of a pod that an earlier kubelet has
// started, so that it counts, and has the limits of today.
func (w *worker) recallGroup() {
	p := w.current()
	if !w.started || !pod.IsActive(p) {
		return
	}
	if _, err := w.k.steps.Cgroups.EnsurePod(p); err != nil {
		w.k.Log.Warn("taking over a pod's control group", "pod", w.name, "uid", w.uid, "err", err)
	}
}

// ending is how far the end of a pod has come, as kept on disk.
type ending struct {
	Since  time.Time       `json:"since"`
	Hooked map[string]bool `json:"hooked,omitempty"` // instances whose preStop hook has run
}

// recallEnding takes up an end that an earlier kubelet began: the pod's grace
// goes on from where it was, and hooks are not run twice.
func (w *worker) recallEnding() {
	data, err := os.ReadFile(w.k.Layout.EndingFile(w.uid))
	if err != nil {
		return // none, as a rule
	}
	var e ending
	if err := json.Unmarshal(data, &e); err != nil {
		w.k.Log.Warn("reading how far a pod's end has come", "uid", w.uid, "err", err)
		return
	}
	w.memory.EndSince = e.Since
	for id := range e.Hooked {
		w.memory.Stopping[id] = podsync.Stopping{Deadline: e.Since.Add(farAway), Hooked: true}
	}
}

// farAway is later than any grace: the deadline of an end taken up again is
// worked out anew.
const farAway = 365 * 24 * time.Hour

func (w *worker) rememberEnding() {
	e := ending{Since: w.memory.EndSince, Hooked: map[string]bool{}}
	if e.Since.IsZero() {
		return
	}
	for id, s := range w.memory.Stopping {
		if s.Hooked {
			e.Hooked[id] = true
		}
	}
	data, err := json.Marshal(e)
	if err == nil {
		err = steps.WriteFile(w.k.Layout.EndingFile(w.uid), data, 0o600)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a pod that never got a directory needs no note
		w.k.Log.Warn("noting that a pod's end began", "uid", w.uid, "err", err)
	}
}
