package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/layout"
)

// oneContainer is a runtime whose container writes to file.
type oneContainer struct {
	file string
	fail error
}

func (o *oneContainer) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return []*runtimeapi.Container{{Id: "c"}}, nil
}

func (o *oneContainer) ContainerStatus(context.Context, string) (*runtimeapi.ContainerStatus, error) {
	return &runtimeapi.ContainerStatus{LogPath: o.file}, nil
}

func (o *oneContainer) ReopenLog(context.Context, string) error {
	if o.fail != nil {
		return o.fail
	}
	return os.WriteFile(o.file, nil, 0o640)
}

func TestRotate(t *testing.T) {
	l := layout.Below(t.TempDir())
	dir := filepath.Join(l.PodLogs, "ns_web_u", "main")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	rt := &oneContainer{file: filepath.Join(dir, "0.log")}
	r := New(Config{MaxBytes: 10, MaxFiles: 3, Every: time.Second}, rt, l, slog.New(slog.DiscardHandler))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	turn := func(text string) {
		t.Helper()
		if err := os.WriteFile(rt.file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		if err := r.Rotate(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			got = append(got, f.Name())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	}
	turn("short")
	expect("0.log")
	turn("first, long enough")
	expect("0.log", "0.log.20260101-000002")
	turn("second, long enough")
	expect("0.log", "0.log.20260101-000002.gz", "0.log.20260101-000003")
	turn("third, long enough")
	expect("0.log", "0.log.20260101-000003.gz", "0.log.20260101-000004")
	if got := unzip(t, filepath.Join(dir, "0.log.20260101-000003.gz")); got != "second, long enough" {
		t.Errorf("compressed part holds %q", got)
	}
	rt.fail = errors.New("busy")
	if err := os.WriteFile(rt.file, []byte("fourth, long enough"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate(t.Context(), now.Add(time.Second)); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("error %v, want the runtime's", err)
	}
	if b, err := os.ReadFile(rt.file); err != nil || string(b) != "fourth, long enough" {
		t.Errorf("the log that could not be reopened: %q, %v", b, err)
	}
}

func unzip(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
