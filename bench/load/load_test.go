package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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

// TestFollow has a server end the stream after each event.
func TestFollow(t *testing.T) {
	for _, media := range []string{JSON, Protobuf} {
		var asked []string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Query().Get("resourceVersion"))
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.Itoa(10 * len(asked))}}
			data, err := Encode(media, object)
			if err != nil {
				t.Error(err)
			}
			event := metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: data}}
			if media == JSON {
				err = json.NewEncoder(w).Encode(event)
			} else if data, err = event.Marshal(); err == nil {
				_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
			}
			if err != nil {
				t.Error(err)
			}
		}))
		defer server.Close()
		c := &Client{base: server.URL, conns: []*http.Client{server.Client()}}
		enough := errors.New("enough")
		left := 3
		resumed, err := c.Follow(t.Context(), "/x?watch=1&resourceVersion=0", media, func() {}, func([]byte) error {
			if left--; left == 0 {
				return enough
			}
			return nil
		})
		if resumed != 2 || !errors.Is(err, enough) {
			t.Errorf("%s: resumed %d times, %v", media, resumed, err)
		}
		if diff := cmp.Diff([]string{"0", "10", "20"}, asked); diff != "" {
			t.Errorf("%s: %s", media, diff)
		}
	}
}

func TestFollowGivesUpAfterAnError(t *testing.T) {
	gone := []byte(`{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410}}`)
	if path, err := after("/x?watch=1", JSON, gone); err == nil {
		t.Errorf("would go on at %s", path)
	}
}
