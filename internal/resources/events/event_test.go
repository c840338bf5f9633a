package events

import (
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"skiff.dev/skiff/internal/check"
)

// TestConversion: nothing is lost on the way from one group to the other.
func TestConversion(t *testing.T) {
	codecs := serializer.NewCodecFactory(clientscheme.Scheme)
	for seed := range int64(50) {
		fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), codecs)
		e := &eventsv1.Event{}
		fill.Fill(e)
		e.TypeMeta = metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"}
		if diff := cmp.Diff(e, FromCore(ToCore(e))); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

func TestValidate(t *testing.T) {
	valid := func() *eventsv1.Event {
		return &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "team"},
			EventTime:  metav1.MicroTime{Time: time.Unix(1, 0)}, ReportingController: "skiff.dev/test", ReportingInstance: "i",
			Action: "Do", Reason: "Done", Type: corev1.EventTypeNormal, Regarding: corev1.ObjectReference{Namespace: "team"},
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*eventsv1.Event)
		update bool
		want   []string
	}{
		{"valid", func(*eventsv1.Event) {}, false, nil},
		{"elsewhere", func(e *eventsv1.Event) { e.Namespace = "other" }, false,
			[]string{`regarding.namespace: Invalid value: "team": does not match event.namespace`}},
		{"no time", func(e *eventsv1.Event) { e.EventTime = metav1.MicroTime{} }, false, []string{"eventTime: Required value"}},
		{"type", func(e *eventsv1.Event) { e.Type = "Odd" }, false, []string{`type: Unsupported value: "Odd": supported values: "Normal", "Warning"`}},
		{"note", func(e *eventsv1.Event) { e.Note = strings.Repeat("x", 1025) }, false, []string{"note: Too long: may not be more than 1024 bytes"}},
		{"old count", func(e *eventsv1.Event) { e.DeprecatedCount = 1 }, false, []string{`deprecatedCount: Invalid value: "": needs to be unset`}},
		{"series of one", func(e *eventsv1.Event) {
			e.Series = &eventsv1.EventSeries{Count: 1, LastObservedTime: e.EventTime}
		}, true, []string{`series.count: Invalid value: "": should be at least 2`}},
		{"changed reason", func(e *eventsv1.Event) { e.Reason = "Other" }, true, []string{`reason: Invalid value: "Other": field is immutable`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := valid()
			tc.change(e)
			var old *eventsv1.Event
			if tc.update {
				old = valid()
			}
			r := check.NewReport()
			validateNew(r, e, old)
			var got []string
			for _, f := range r.Errors() {
				got = append(got, f.Error())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
