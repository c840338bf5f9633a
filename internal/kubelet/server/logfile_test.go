package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var errNotFound = status.Error(codes.NotFound, "not found")

const sample = `2026-11-21T09:00:00.000000001Z stdout F one
2026-11-21T09:00:01.000000002Z stderr F two
2026-11-21T09:00:02.000000003Z stdout P thr
2026-11-21T09:00:02.000000004Z stdout F ee
nonsense
2026-11-21T09:00:03.000000005Z stdout F:x four
`

func all() logOptions { return logOptions{tail: -1, limit: -1} }

func read(t *testing.T, content string, o logOptions) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0.log"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(dir, filepath.Join(dir, "0.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var out bytes.Buffer
	if err := readLog(t.Context(), l, o, &out, nil, nil); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReadLog(t *testing.T) {
	at := func(s string) time.Time { ti, _ := time.Parse(time.RFC3339Nano, s); return ti }
	with := func(f func(*logOptions)) logOptions { o := all(); f(&o); return o }
	for name, tt := range map[string]struct {
		o    logOptions
		want string
	}{
		"all":        {all(), "one\ntwo\nthree\nfour\n"},
		"stderr":     {with(func(o *logOptions) { o.stream = "stderr" }), "two\n"},
		"since":      {with(func(o *logOptions) { o.since = at("2026-11-21T09:00:02Z") }), "three\nfour\n"},
		"timestamps": {with(func(o *logOptions) { o.timestamps, o.since = true, at("2026-11-21T09:00:02Z") }), "2026-11-21T09:00:02.000000003Z three\n2026-11-21T09:00:03.000000005Z four\n"},
		"tail 0":     {with(func(o *logOptions) { o.tail = 0 }), ""},
		"tail 1":     {with(func(o *logOptions) { o.tail = 1 }), "four\n"},
		"tail 4":     {with(func(o *logOptions) { o.tail = 4 }), "three\nfour\n"},
		"tail 100":   {with(func(o *logOptions) { o.tail = 100 }), "one\ntwo\nthree\nfour\n"},
		"limit":      {with(func(o *logOptions) { o.limit = 6 }), "one\ntw"},
		"limit tail": {with(func(o *logOptions) { o.limit, o.tail = 2, 1 }), "fo"},
	} {
		if got := read(t, sample, tt.o); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if got := read(t, sample+"2026-11-21T09:00:09Z stdout F cut", all()); !strings.HasSuffix(got, "four\ncut") {
		t.Errorf("a line without its end: %q", got)
	}
	var long strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&long, "2026-11-21T09:00:00Z stdout F %05d %s\n", i, strings.Repeat("x", i%200))
	}
	o := all()
	o.tail = 1234
	if got := read(t, long.String(), o); strings.Count(got, "\n") != 1234 || !strings.HasPrefix(got, "03766 ") {
		t.Errorf("a long tail: %d lines, %.20q", strings.Count(got, "\n"), got)
	}
}

func TestLogsStayInTheirDirectory(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(out, []byte(sample), 0o600), os.Symlink(out, filepath.Join(dir, "0.log")), os.Mkdir(filepath.Join(dir, "d"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{out, filepath.Join(dir, "0.log"), filepath.Join(dir, "../secret"), filepath.Join(dir, "d"), "relative"} {
		if l, err := openLog(dir, path); err == nil {
			l.close()
			t.Errorf("%s was opened", path)
		}
	}
}

// lines collects what is written and wakes the test.
type lines struct {
	buf  bytes.Buffer
	seen chan string
}

func (l *lines) Write(b []byte) (int, error) { return l.buf.Write(b) }
func (l *lines) flush() error {
	if l.buf.Len() > 0 {
		l.seen <- l.buf.String()
		l.buf.Reset()
	}
	return nil
}

// TestFollow appends to a log, rotates it, and ends its container.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open()
	put := func(text string) { fmt.Fprintf(f, "2026-11-21T09:00:00Z stdout F %s\n", text) }
	put("first")
	l, err := openLog(dir, path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	out := &lines{seen: make(chan string)}
	ended := make(chan struct{})
	running := func(context.Context) (bool, error) {
		select {
		case <-ended:
			return false, nil
		default:
			return true, nil
		}
	}
	done := make(chan error, 1)
	o := all()
	o.follow = true
	go func() { done <- readLog(t.Context(), l, o, out, out.flush, running) }()
	want := func(text string) {
		t.Helper()
		got := ""
		for len(got) < len(text) {
			select {
			case s := <-out.seen:
				got += s
			case err := <-done:
				t.Fatalf("ended with %v after %q, want %q", err, got, text)
			case <-time.After(20 * time.Second):
				t.Fatalf("got %q, want %q", got, text)
			}
		}
		if got != text {
			t.Fatalf("got %q, want %q", got, text)
		}
	}
	want("first\n")
	put("second")
	want("second\n")
	put("last of the old")
	if err := os.Rename(path, path+".20261121-090000"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	f = open()
	put("first of the new")
	want("last of the old\nfirst of the new\n")
	put("end")
	close(ended)
	f.Close()
	want("end\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestContainerLogs(t *testing.T) {
	at, rt, s := serve(t, anyone(nil))
	file := filepath.Join(s.Layout.PodLogs, "ns_p_u1", "c", "0.log")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(sample), 0o600)); err != nil {
		t.Fatal(err)
	}
	rt.statuses["c1"] = &runtimeapi.ContainerStatus{LogPath: file, State: runtimeapi.ContainerState_CONTAINER_EXITED}
	for path, want := range map[string]string{
		"ns/p/c?tailLines=1":           "200 four\n",
		"ns/p/c?follow=true":           "200 one\ntwo\nthree\nfour\n",
		"ns/p/c?tailLines=-1":          "400 tailLines: Invalid value: -1: must be greater than or equal to 0",
		"ns/p/c?tailLines=x":           "400 ",
		"ns/p/c?previous=true":         `400 previous terminated container "c" in pod "p" not found`,
		"ns/p/waiting":                 `400 container "waiting" in pod "p" is waiting to start: ContainerCreating`,
		"ns/p/absent":                  `400 container "absent" in pod "p" is not available`,
		"ns/absent/c":                  `404 pod "absent" does not exist`,
		"ns/p/..%2f..%2fetc":           `400 container "../../etc" in pod "p" is not available`,
		"ns/p/c?limitBytes=3&stream=x": "400 stream: ",
	} {
		r, _ := http.NewRequest("GET", at.String()+"/containerLogs/"+path, nil)
		r.Header.Set("Accept", "application/json, */*")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		text := string(body)
		if resp.StatusCode != 200 {
			var st metav1.Status
			if err := json.Unmarshal(body, &st); err != nil || int(st.Code) != resp.StatusCode {
				t.Errorf("%s: not a Status: %s", path, body)
			}
			text = st.Message
		}
		if got := fmt.Sprintf("%d %s", resp.StatusCode, text); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestLogOf(t *testing.T) {
	term := func(id string) v1.ContainerState {
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ContainerID: id}}
	}
	wait := func(reason string) v1.ContainerState {
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
	}
	for name, tt := range map[string]struct {
		cs       v1.ContainerStatus
		previous bool
		id, err  string
	}{
		"ended":            {cs: v1.ContainerStatus{State: term("containerd://a")}, id: "a"},
		"never started":    {cs: v1.ContainerStatus{State: term("")}, err: `container "c" in pod "p" is terminated`},
		"crash loop":       {cs: v1.ContainerStatus{State: wait("CrashLoopBackOff"), LastTerminationState: term("containerd://b")}, id: "b"},
		"previous":         {cs: v1.ContainerStatus{State: term("containerd://a"), LastTerminationState: term("containerd://b")}, previous: true, id: "b"},
		"image missing":    {cs: v1.ContainerStatus{State: wait("ErrImagePull")}, err: `container "c" in pod "p" is waiting to start: image can't be pulled`},
		"image backed off": {cs: v1.ContainerStatus{State: wait("ImagePullBackOff")}, err: `container "c" in pod "p" is waiting to start: trying and failing to pull image`},
	} {
		tt.cs.Name = "c"
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: v1.PodStatus{InitContainerStatuses: []v1.ContainerStatus{tt.cs}}}
		id, err := logOf(p, "c", tt.previous)
		if id != tt.id || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%s: %q %v", name, id, err)
		}
	}
}

func FuzzParseLog(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add([]byte(strings.TrimSuffix(line, "\n")))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		l, err := parseLog(line)
		if err != nil {
			return
		}
		tag := "F"
		if l.partial {
			tag = "P"
		}
		again, err := parseLog(fmt.Appendf(nil, "%s %s %s %s", l.stamp, l.stream, tag, l.text))
		if err != nil || !bytes.Equal(again.text, l.text) || !bytes.Equal(again.stamp, l.stamp) || again.stream != l.stream || again.partial != l.partial {
			t.Errorf("%q became %+v, then %+v %v", line, l, again, err)
		}
	})
}

func FuzzLogQuery(f *testing.F) {
	f.Add("follow=true&tailLines=5&sinceSeconds=10")
	f.Add("sinceTime=2026-11-21T09:00:00Z&limitBytes=1&stream=Stderr")
	f.Fuzz(func(t *testing.T, text string) {
		q, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		now := time.Unix(1_800_000_000, 0)
		o, _, err := logQuery(q, now)
		if err == nil && (o.tail < -1 || o.limit < -1 || o.limit == 0 || o.stream != "" && o.stream != "stdout" && o.stream != "stderr") {
			t.Errorf("%q gave %+v", text, o)
		}
		if err == nil && q.Has("sinceSeconds") && !o.since.Before(now) {
			t.Errorf("%q: since %v", text, o.since)
		}
	})
}
