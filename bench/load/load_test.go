package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEncodeDecode(t *testing.T) {
	want := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"a": "b"}}
	for _, media := range []string{JSON, Protobuf} {
		data, err := Encode(media, want)
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.ConfigMap
		if err := Decode(data, &got); err != nil {
			t.Fatal(err)
		}
		got.TypeMeta = want.TypeMeta
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Errorf("%s: %s", media, diff)
		}
	}
}

func TestParallel(t *testing.T) {
	var sum atomic.Int64
	times, _, err := Parallel(context.Background(), 100, 7, func(_ context.Context, i int) error {
		sum.Add(int64(i))
		return nil
	})
	if err != nil || times.Len() != 100 || sum.Load() != 4950 {
		t.Errorf("%d calls, sum %d, %v", times.Len(), sum.Load(), err)
	}
	fault := errors.New("no")
	if _, _, err := Parallel(context.Background(), 100, 7, func(context.Context, int) error { return fault }); !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
}

func TestFrames(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	r := bufio.NewReader(strings.NewReader("a\n" + long + "\n"))
	for _, want := range []string{"a\n", long + "\n"} {
		got, err := line(r, nil)
		if err != nil || string(got) != want {
			t.Errorf("line: %d bytes, %v", len(got), err)
		}
	}
	r = bufio.NewReader(bytes.NewReader([]byte{0, 0, 0, 2, 'h', 'i', 0xff, 0, 0, 0}))
	if got, err := frame(r, nil); err != nil || string(got) != "hi" {
		t.Errorf("frame: %q, %v", got, err)
	}
	if _, err := frame(r, nil); err == nil {
		t.Error("believed a length of 4 GB")
	}
}

func TestUnless(t *testing.T) {
	conflict := &Error{Code: 409}
	if err := Unless(conflict, 409); err != nil {
		t.Error(err)
	}
	if err := Unless(conflict, 404); err == nil {
		t.Error("swallowed a conflict")
	}
}
