// Package script runs the scripts of testdata on the built binary: a server
// without a node, and the kubectl that is built in. Each script has a data
// directory, a port and a server of its own.
package script

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"skiff.dev/skiff/internal/testing/loopback"
)

var (
	update = flag.Bool("update", false, "rewrite the expected output in the scripts")
	built  = flag.String("skiff", os.Getenv("SKIFF_BINARY"), "binary to test; if empty it is built")
)

// stopping is how long a server may take to end.
const stopping = 20 * time.Second

func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary and starts servers")
	}
	bin := binary(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			data := filepath.Join(env.WorkDir, "data")
			env.Setenv("PATH", filepath.Dir(bin)+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("DATA", data)
			env.Setenv("PORT", strconv.Itoa(loopback.Port(env.T().(testing.TB))))
			env.Setenv("KUBECONFIG", filepath.Join(data, "kubeconfig"))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"server": server, "kubectl": kubectl},
	})
}

// binary returns the path of the binary under test, which is named "skiff".
func binary(t *testing.T) string {
	bin := filepath.Join(t.TempDir(), "skiff")
	if *built != "" {
		path, err := filepath.Abs(*built)
		if err == nil {
			err = os.Symlink(path, bin)
		}
		if err != nil {
			t.Fatal(err)
		}
		return bin
	}
	build := exec.Command("go", "build", "-o", bin, "../../cmd/skiff")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the binary: %v\n%s", err, out)
	}
	return bin
}

// kubectl runs the kubectl of the binary; it never takes longer than a minute.
func kubectl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("timeout", append([]string{"60", "skiff", "kubectl"}, args...)...)
	switch {
	case err != nil && !neg:
		ts.Fatalf("kubectl failed: %v", err)
	case err == nil && neg:
		ts.Fatalf("kubectl succeeded unexpectedly")
	}
}

// server starts `skiff server` without a node and returns once it is ready. It
// ends with the script.
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("use `! exec skiff server` for a server that must fail")
	}
	log, err := os.Create(filepath.Join(ts.Getenv("WORK"), "server.log"))
	ts.Check(err)
	args = append([]string{"server", "--data-dir", ts.Getenv("DATA"), "--disable-agent", "--bind-address", "127.0.0.1", "--secure-port", ts.Getenv("PORT")}, args...)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "skiff", args...)
	cmd.Path = filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "skiff")
	cmd.Err = nil
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopping
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cancel()
		_ = cmd.Wait() // it has been told to end
		log.Close()
	})
	if err := ready(ts); err != nil {
		data, _ := os.ReadFile(log.Name())
		ts.Fatalf("the server does not get ready: %v\n%s", err, data)
	}
}

// ready waits until the cluster can be used: the kubeconfig is there and
// /readyz says ok.
func ready(ts *testscript.TestScript) error {
	last := fmt.Errorf("not asked yet")
	for range 150 {
		cmd := exec.Command(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "skiff"), "kubectl", "get", "--raw", "/readyz")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+ts.Getenv("KUBECONFIG"))
		if last = cmd.Run(); last == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond) // the process is another's: there is no event to wait for
	}
	return last
}
