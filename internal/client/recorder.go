package client

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
)

// Figures of the recorder. An object that things keep happening to gets burst
// events at once, and one every refill after that.
const (
	recorderQueue = 1000
	burst         = 25
	refill        = 5 * time.Minute
	forgetAfter   = 10 * time.Minute
	maxNote       = 1024
)

// Recorder is Events by way of the API. What it is told while its queue is
// full is dropped: what matters is in the objects' status.
type Recorder struct {
	client          *Client
	component, host string
	queue           chan *corev1.Event
	// The rest belongs to Run.
	seen  map[happening]*corev1.Event
	spent map[types.UID]*allowance
	swept time.Time
}

// happening is what makes two events the same.
type happening struct {
	uid                      types.UID
	field, typ, reason, note string
}

// allowance is how many events an object may still get.
type allowance struct {
	left float64
	at   time.Time
}

// NewRecorder returns a recorder that reports as component, on host ("" for
// none). It must be Run.
func NewRecorder(c *Client, component, host string) *Recorder {
	return &Recorder{
		client: c, component: component, host: host, queue: make(chan *corev1.Event, recorderQueue),
		seen: map[happening]*corev1.Event{}, spent: map[types.UID]*allowance{},
	}
}

// As returns events that are reported by the recorder behind them under the
// name of a component of its own. Events of another kind come back as they are.
func As(e Events, component string) Events {
	if r, ok := e.(*Recorder); ok {
		return named{r, component}
	}
	return e
}

// named reports under another name than the recorder's.
type named struct {
	recorder  *Recorder
	component string
}

// Normal implements Events.
func (n named) Normal(obj meta.Object, reason, note string, args ...any) {
	n.recorder.report(n.component, obj, "", corev1.EventTypeNormal, reason, fmt.Sprintf(note, args...))
}

// Warning implements Events.
func (n named) Warning(obj meta.Object, reason, note string, args ...any) {
	n.recorder.report(n.component, obj, "", corev1.EventTypeWarning, reason, fmt.Sprintf(note, args...))
}

// Normal implements Events.
func (r *Recorder) Normal(obj meta.Object, reason, note string, args ...any) {
	r.report(r.component, obj, "", corev1.EventTypeNormal, reason, fmt.Sprintf(note, args...))
}

// Warning implements Events.
func (r *Recorder) Warning(obj meta.Object, reason, note string, args ...any) {
	r.report(r.component, obj, "", corev1.EventTypeWarning, reason, fmt.Sprintf(note, args...))
}

// Field reports about a part of an object, such as spec.containers{web}.
func (r *Recorder) Field(obj meta.Object, path, typ, reason, note string) {
	r.report(r.component, obj, path, typ, reason, note)
}

func (r *Recorder) report(component string, obj meta.Object, path, typ, reason, note string) {
	kind := scheme.KindOf(obj)
	now := time.Now()
	if len(note) > maxNote {
		note = note[:maxNote]
	}
	namespace := obj.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	at := metav1.NewTime(now.Truncate(time.Second))
	e := &corev1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName() + "." + strconv.FormatInt(now.UnixNano(), 16), Namespace: namespace,
		},
		InvolvedObject: corev1.ObjectReference{
			Kind: kind.Kind, APIVersion: kind.GroupVersion().String(), Namespace: obj.GetNamespace(), Name: obj.GetName(),
			UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(), FieldPath: path,
		},
		Reason: reason, Message: strings.ToValidUTF8(note, ""), Type: typ, Count: 1,
		FirstTimestamp: at, LastTimestamp: at,
		Source:              corev1.EventSource{Component: component, Host: r.host},
		ReportingController: component, ReportingInstance: r.host,
	}
	select {
	case r.queue <- e:
	default:
	}
}

// Run writes what is reported until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case e := <-r.queue:
			if err := r.write(ctx, e); err != nil && ctx.Err() == nil {
				slog.Debug("an event could not be written", "reason", e.Reason, "object", e.InvolvedObject.Name, "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// write creates the event, or counts up the one that said the same.
func (r *Recorder) write(ctx context.Context, e *corev1.Event) error {
	now := time.Now()
	r.sweep(now)
	key := happening{e.InvolvedObject.UID, e.InvolvedObject.FieldPath, e.Type, e.Reason, e.Message}
	if !r.allow(e.InvolvedObject.UID, now) {
		return nil
	}
	events := For[*corev1.Event](r.client)
	if have := r.seen[key]; have != nil {
		patch, err := json.Marshal(map[string]any{"count": have.Count + 1, "lastTimestamp": e.LastTimestamp, "message": e.Message})
		if err != nil {
			return err
		}
		got, err := events.Patch(ctx, meta.KeyOf(have), "", types.MergePatchType, patch)
		if err == nil {
			r.seen[key] = got
			return nil
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	got, err := events.Create(ctx, e)
	if err == nil {
		r.seen[key] = got
	}
	return err
}

// allow takes one from the object's allowance.
func (r *Recorder) allow(uid types.UID, now time.Time) bool {
	a := r.spent[uid]
	if a == nil {
		a = &allowance{left: burst, at: now}
		r.spent[uid] = a
	}
	a.left = min(burst, a.left+now.Sub(a.at).Seconds()/refill.Seconds())
	a.at = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// sweep forgets what has not happened for a while.
func (r *Recorder) sweep(now time.Time) {
	if now.Sub(r.swept) < forgetAfter {
		return
	}
	r.swept = now
	for key, e := range r.seen {
		if now.Sub(e.LastTimestamp.Time) > forgetAfter {
			delete(r.seen, key)
		}
	}
	for uid, a := range r.spent {
		if now.Sub(a.at) > burst*refill {
			delete(r.spent, uid)
		}
	}
}
