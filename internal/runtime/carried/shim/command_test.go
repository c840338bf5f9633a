package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gorunc "github.com/containerd/go-runc"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestParse(t *testing.T) {
	const common = "--root /r --log /b/log.json --log-format json "
	for _, c := range []struct {
		args string
		want command
		ok   bool
	}{
		{common + "create --bundle /b --pid-file /b/init.pid c1", command{name: "create", bundle: "/b", pidFile: "/b/init.pid", args: []string{"c1"}}, true},
		{common + "start c1", command{name: "start", args: []string{"c1"}}, true},
		{common + "kill --all c1 9", command{name: "kill", all: true, args: []string{"c1", "9"}}, true},
		{common + "delete --force c1", command{name: "delete", force: true, args: []string{"c1"}}, true},
		{common + "create --bundle /b --no-pivot c1", command{}, false},
		{common + "create --bundle /b --console-socket", command{}, false},
		{common + "features", command{}, false},
		{"start c1", command{}, false}, // nobody says where
	} {
		got, ok := parse(exec.Command("runc", strings.Fields(c.args)...))
		if ok != c.ok {
			t.Errorf("%s: understood %v, want %v", c.args, ok, c.ok)
		}
		if !ok {
			continue
		}
		got.cmd, c.want.root, c.want.log = nil, "/r", "/b/log.json"
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(command{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.args, diff)
		}
	}
}

// TestDoneReportsAsRuncDoes has the task service's own reader look at what is left.
func TestDoneReportsAsRuncDoes(t *testing.T) {
	var stderr bytes.Buffer
	c := command{log: filepath.Join(t.TempDir(), "log.json"), cmd: &exec.Cmd{Stderr: &stderr}}
	if exit := <-c.done(errors.New(`a "bad" thing`)); exit.Status != 1 {
		t.Errorf("status %d, want 1", exit.Status)
	}
	log, err := os.ReadFile(c.log)
	if err != nil || !strings.Contains(string(log), `"msg":"a \"bad\" thing"`) || !strings.Contains(string(log), `"level":"error"`) {
		t.Errorf("the log is %s, %v", log, err)
	}
	if stderr.String() != "a \"bad\" thing\n" {
		t.Errorf("standard error is %q", stderr.String())
	}
	if exit := <-c.done(nil); exit.Status != 0 {
		t.Errorf("status %d of a success", exit.Status)
	}
}

// recorder is a process monitor that only notes what it is asked to run.
type recorder struct{ ran []string }

func (r *recorder) Start(cmd *exec.Cmd) (chan gorunc.Exit, error) {
	r.ran = append(r.ran, strings.Join(cmd.Args[1:], " "))
	cmd.Process = &os.Process{Pid: 1}
	return make(chan gorunc.Exit), nil
}

func (r *recorder) StartLocked(*exec.Cmd) (chan gorunc.Exit, error) {
	return nil, errors.New("only Start, from the thread of the monitor's own")
}

func (r *recorder) Wait(*exec.Cmd, chan gorunc.Exit) (int, error) { return 0, nil }

func TestMonitorLeavesToRuncWhatItDoesNotKnow(t *testing.T) {
	r := &recorder{}
	m := newMonitor(r, "", nil)
	defer close(m.turns)
	for _, args := range []string{"features", "--root /r start c1", "--root /r kill c1 9", "--root /r delete c1", "--root /r create --bundle /nowhere c1"} {
		if _, err := m.StartLocked(exec.Command("runc", strings.Fields(args)...)); err != nil {
			t.Fatal(err)
		}
		if last := r.ran[len(r.ran)-1]; last != args {
			t.Errorf("runc ran %q, want %q", last, args)
		}
	}
}

func TestSysctls(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":            "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"net.ipv4.conf.eth0/1.rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
	} {
		if got := sysctlFile(name); got != want {
			t.Errorf("sysctlFile(%q) = %q, want %q", name, got, want)
		}
	}
	own := []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/ns"}, {Type: specs.IPCNamespace}}
	for _, c := range []struct {
		name       string
		namespaces []specs.LinuxNamespace
		want       bool
	}{
		{"net.core.somaxconn", own, true},
		{"net.core.somaxconn", own[1:], false},
		{"kernel.shmmax", own, true},
		{"fs.mqueue.msg_max", own, true},
		{"fs.mqueue.msg_max", own[:1], false},
		{"kernel.domainname", own, false},
		{"vm.swappiness", own, false},
		{"net/../vm/swappiness", own, false},
	} {
		spec := &specs.Spec{Linux: &specs.Linux{Namespaces: c.namespaces, Sysctl: map[string]string{c.name: "1"}}}
		if got := allowed(spec); got != c.want {
			t.Errorf("%s allowed with %v: %v, want %v", c.name, c.namespaces, got, c.want)
		}
	}
}
