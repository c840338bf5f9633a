package pidfd

import (
	"context"
	"errors"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func start(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()
	})
	return cmd
}

func TestWaitAndSignal(t *testing.T) {
	cmd := start(t)
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Wait(ctx) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Wait after cancel = %v", err)
	}

	go func() { ended <- p.Wait(t.Context()) }()
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Wait = %v", err)
	}
	_ = cmd.Wait() // ended by a signal
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, unix.ESRCH) {
		t.Errorf("Signal after the end = %v", err)
	}
}

func TestKillAll(t *testing.T) {
	a, b := start(t), start(t)
	pids := []int{a.Process.Pid, b.Process.Pid}
	if err := KillAll(t.Context(), pids, nil); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{a, b} {
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Errorf("process %d was not killed: %v", cmd.Process.Pid, err)
		}
	}
	if err := KillAll(t.Context(), pids, nil); err != nil {
		t.Errorf("KillAll of ended processes = %v", err)
	}
}
