package hook

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type shell struct{}

func (shell) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	if id != "c" {
		return nil, errors.New("no such container")
	}
	if cmd[0] == "fail" {
		return &runtimeapi.ExecSyncResponse{ExitCode: 3, Stderr: []byte("no")}, nil
	}
	return &runtimeapi.ExecSyncResponse{}, nil
}

func TestRun(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stop" || r.Header.Get("X") != "y" {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	pod := &v1.Pod{Status: v1.PodStatus{PodIP: u.Hostname()}}
	get := func(path string) *v1.LifecycleHandler {
		return &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString(u.Port()), HTTPHeaders: []v1.HTTPHeader{{Name: "X", Value: "y"}}}}
	}
	exec := func(cmd ...string) *v1.LifecycleHandler {
		return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: cmd}}
	}
	for name, tt := range map[string]struct {
		hook *v1.LifecycleHandler
		id   string
		err  string
	}{
		"a command":                {exec("ok"), "c", ""},
		"a command that fails":     {exec("fail", "now"), "c", "command 'fail now' exited with 3: no"},
		"a container that is gone": {exec("ok"), "x", `running ["ok"] in the container: no such container`},
		"a request":                {get("/stop"), "c", ""},
		"a request that fails":     {get("other"), "c", "HTTP hook failed with statuscode: 400"},
		"nothing":                  {&v1.LifecycleHandler{}, "c", "invalid handler: no action given"},
	} {
		t.Run(name, func(t *testing.T) {
			err := NewRunner(shell{}).Run(t.Context(), pod, &v1.Container{}, tt.id, tt.hook)
			if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 10}}
		began := time.Now()
		if err := NewRunner(shell{}).Run(t.Context(), nil, nil, "c", hook); err != nil || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v, want 10s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := NewRunner(shell{}).Run(ctx, nil, nil, "c", hook); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the deadline", err)
		}
	})
}
