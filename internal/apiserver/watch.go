package apiserver

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

// watchFor is the shortest time after which a watch without timeoutSeconds is
// ended; it is stretched at random up to twice that, so that clients do not
// all come back at once.
const watchFor = 30 * time.Minute

// writeWait is how long a client may take to read what a watch sends it before
// it is cut off.
const writeWait = 30 * time.Second

func (c *call) watch() error {
	opts, err := c.listOptions()
	if err != nil {
		return err
	}
	include, err := includeObject(c.r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), watchTime(c.r))
	defer cancel()
	w, err := c.res.Watch(ctx, c.key().Namespace, opts)
	if err != nil {
		return err
	}
	defer w.Close()
	out := &watchWriter{c: c, f: c.form, include: include, kind: c.res.Info().Name.GVK(), control: http.NewResponseController(c.w)}
	// A transport that cannot set deadlines still ends when its client does.
	out.slow = newCutter(func() { _ = out.control.SetWriteDeadline(past) })
	defer out.slow.end()
	out.start()
	sent := c.s.Metrics.Watched(c.s.measured(c.info, false, true))
	for {
		frames, err := w.Next(ctx)
		if err != nil {
			out.end(ctx, err)
			return nil
		}
		if out.send(w, frames) != nil {
			return nil // the client has gone, or reads too slowly
		}
		sent(len(frames), len(out.buf))
	}
}

func watchTime(r *http.Request) time.Duration {
	if s, err := strconv.Atoi(r.URL.Query().Get("timeoutSeconds")); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	return watchFor + rand.N(watchFor)
}

// watchWriter writes the frames of one watch: JSON documents one a line, or
// protobuf messages each behind its length in four bytes.
type watchWriter struct {
	c       *call
	f       form
	kind    schema.GroupVersionKind
	control *http.ResponseController
	slow    *cutter
	buf     []byte
	include metav1.IncludeObjectPolicy
	headed  bool // a Table's column definitions have been sent
}

func (o *watchWriter) start() {
	media := o.f.media
	switch {
	case media == scheme.Protobuf:
		media += ";stream=watch"
	case o.f.stream:
		media += ";stream=watch"
	}
	o.c.w.Header().Set("Content-Type", media)
	o.c.w.Header().Set("Cache-Control", "no-cache, private")
	writeWarnings(o.c.w, o.c.r)
	o.c.w.WriteHeader(http.StatusOK)
	_ = o.control.Flush() // a client that has gone is noticed by the first write
}

// send writes a batch of frames and flushes once.
func (o *watchWriter) send(w *verbs.Watch, frames []verbs.Frame) error {
	o.buf = o.buf[:0]
	for _, f := range frames {
		if err := o.frame(w, f); err != nil {
			return err
		}
	}
	return o.flush()
}

func (o *watchWriter) flush() error {
	o.slow.within(writeWait)
	defer o.slow.done()
	if _, err := o.c.w.Write(o.buf); err != nil {
		return err
	}
	return o.control.Flush()
}

func (o *watchWriter) frame(w *verbs.Watch, f verbs.Frame) error {
	switch {
	case f.Type == watch.Bookmark:
		obj := w.Bookmark(f)
		if o.f.as != "" {
			return o.object(f.Type, transform(o.c.res, o.f, obj, false, o.include))
		}
		return o.object(f.Type, obj)
	case o.f.as != "":
		t := transform(o.c.res, o.f, f.Item.Object, !o.headed, o.include)
		o.headed = true
		return o.object(f.Type, t)
	case o.f.media == scheme.Protobuf:
		return o.protobufItem(f.Type, f.Item)
	default:
		return o.jsonItem(f.Type, f.Item)
	}
}

// jsonItem frames the kept encoding of an object.
func (o *watchWriter) jsonItem(t watch.EventType, item *watchcache.Item) error {
	body, err := jsonBody(item)
	if err != nil {
		return err
	}
	prefix, rest := scheme.WithKind(o.kind, body)
	o.buf = append(o.buf, `{"type":"`...)
	o.buf = append(o.buf, t...)
	o.buf = append(o.buf, `","object":`...)
	o.buf = append(o.buf, prefix...)
	o.buf = append(o.buf, rest...)
	o.buf = append(o.buf, "}\n"...)
	return nil
}

func (o *watchWriter) protobufItem(t watch.EventType, item *watchcache.Item) error {
	msg, err := protobufMessage(item)
	if err != nil {
		return err
	}
	o.protobufFrame(t, scheme.Envelope(o.kind, len(msg)), msg)
	return nil
}

// protobufFrame appends a metav1.WatchEvent: its type is field 1, its object
// field 2, a RawExtension whose field 1 holds the enveloped object. The event
// itself goes without an envelope, behind its length.
func (o *watchWriter) protobufFrame(t watch.EventType, parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	raw := tagged(1, size)
	object := tagged(2, len(raw)+size)
	typ := append(tagged(1, len(t)), t...)
	event := len(typ) + len(object) + len(raw) + size
	o.buf = binary.BigEndian.AppendUint32(o.buf, uint32(event))
	for _, p := range [][]byte{typ, object, raw} {
		o.buf = append(o.buf, p...)
	}
	for _, p := range parts {
		o.buf = append(o.buf, p...)
	}
}

// object frames an object that is encoded for this watch alone.
func (o *watchWriter) object(t watch.EventType, obj runtime.Object) error {
	if o.f.media == scheme.Protobuf {
		data, err := scheme.EncodeProtobuf(obj)
		if err != nil {
			return err
		}
		o.protobufFrame(t, data)
		return nil
	}
	data, err := json.Marshal(&metav1.WatchEvent{Type: string(t), Object: runtime.RawExtension{Object: obj}})
	o.buf = append(append(o.buf, data...), '\n')
	return err
}

// end tells the client why the watch ends, unless it simply ran its time.
func (o *watchWriter) end(ctx context.Context, err error) {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return
	}
	var api apierrors.APIStatus
	if !errors.As(err, &api) {
		api = apierrors.NewInternalError(err)
	}
	status := api.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	o.buf = o.buf[:0]
	if o.object(watch.Error, &status) == nil {
		_ = o.flush() // the watch ends either way
	}
}
