package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Part is a program that runs on a machine, as a child of its init.
type Part struct {
	// Name is unique on the machine; its output goes to log/<Name>.log there.
	Name string
	Args []string
	Env  []string // besides the init's
	// Restart has it started again when it ends by itself, as a service manager would.
	Restart bool

	// What became of it.
	PID     int // in the machine's PID namespace
	Running bool
	Exit    string `json:",omitempty"`
	// Restarts counts how often it was started again.
	Restarts int
}

// keeper is a machine's init: it runs parts and buries the dead.
type keeper struct {
	dir string

	mu    sync.Mutex
	parts []*Part
	ended *sync.Cond // a part has ended
}

func newKeeper(dir string) *keeper {
	k := &keeper{dir: dir}
	k.ended = sync.NewCond(&k.mu)
	return k
}

func socket(dir string) string { return filepath.Join(dir, "init.sock") }

// serve does as it is told on the socket until the process is killed.
func (k *keeper) serve() error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			k.bury()
		}
	}()
	l, err := net.Listen("unix", socket(k.dir))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /parts", func(w http.ResponseWriter, _ *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		json.NewEncoder(w).Encode(k.parts) // who hung up does not care
	})
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, r *http.Request) { k.answer(w, r, k.start) })
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) { k.answer(w, r, k.stop) })
	return http.Serve(l, mux)
}

func (k *keeper) answer(w http.ResponseWriter, r *http.Request, do func(Part) error) {
	var p Part
	err := json.NewDecoder(r.Body).Decode(&p)
	if err == nil {
		err = do(p)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

// start starts a part; one of its name must not run.
func (k *keeper) start(p Part) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.ContainsFunc(k.parts, func(o *Part) bool { return o.Name == p.Name && o.Running }) {
		return fmt.Errorf("%s runs already", p.Name)
	}
	log, err := os.OpenFile(filepath.Join(k.dir, "log", p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	program := p.Args[0]
	if !strings.Contains(program, "/") {
		if program, err = exec.LookPath(program); err != nil {
			return err
		}
	}
	p.PID, err = syscall.ForkExec(program, p.Args, &syscall.ProcAttr{
		Dir: "/", Env: append(os.Environ(), p.Env...),
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	p.Running = true
	k.parts = append(slices.DeleteFunc(k.parts, func(o *Part) bool { return o.Name == p.Name }), &p)
	return nil
}

// grace is how long a part that was told to end may take.
const grace = 15 * time.Second

// stop ends a part, if it runs, and returns when it has ended.
func (k *keeper) stop(p Part) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.parts, func(o *Part) bool { return o.Name == p.Name })
	if i < 0 {
		return nil
	}
	if !k.parts[i].Running {
		k.parts[i].Restart = false
		return nil
	}
	running := k.parts[i]
	running.Restart = false
	if err := syscall.Kill(running.PID, syscall.SIGTERM); err != nil {
		return err
	}
	late := time.AfterFunc(grace, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if running.Running {
			syscall.Kill(running.PID, syscall.SIGKILL) // it runs: it has not been buried
		}
	})
	defer late.Stop()
	for running.Running {
		k.ended.Wait()
	}
	return nil
}

// bury takes the exit codes of all children that have ended: parts, and what other processes left behind.
func (k *keeper) bury() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return // no children, or none that has ended
		}
		for _, p := range k.parts {
			if p.PID == pid && p.Running {
				p.Running, p.Exit = false, fmt.Sprintf("exit code %d", status.ExitStatus())
				if status.Signaled() {
					p.Exit = status.Signal().String()
				}
				k.ended.Broadcast()
				if p.Restart {
					time.AfterFunc(restartDelay, func() { k.again(p) })
				}
			}
		}
	}
}

// restartDelay keeps a part that cannot run from keeping the machine busy.
const restartDelay = time.Second

// again starts a part that has ended by itself, unless it was stopped meanwhile.
func (k *keeper) again(p *Part) {
	k.mu.Lock()
	wanted := p.Restart && !p.Running
	next := *p
	k.mu.Unlock()
	if !wanted {
		return
	}
	next.Restarts++
	if err := k.start(next); err != nil {
		fmt.Fprintln(os.Stderr, "starting again:", err)
	}
}

// call speaks to a machine's init.
func (m *Machine) call(method, path string, body any, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 2 * grace, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket(m.Dir))
		},
	}}
	request, err := http.NewRequest(method, "http://init"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", m.Name, strings.TrimSpace(string(text)))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// Start starts a part.
func (m *Machine) Start(p Part) error { return m.call("POST", "/start", p, nil) }

// Stop ends a part, if it runs.
func (m *Machine) Stop(name string) error { return m.call("POST", "/stop", Part{Name: name}, nil) }

// Parts lists what was started.
func (m *Machine) Parts() (parts []Part, err error) {
	return parts, m.call("GET", "/parts", nil, &parts)
}

// restartsTolerated is how often a part may have ended before a cluster counts as broken: on a busy machine
// upstream's controllers lose their Lease now and then, and end.
const restartsTolerated = 20

// Check returns an error for the first part that has ended by itself and is not started again.
func (m *Machine) Check() error {
	parts, err := m.Parts()
	if err != nil {
		return err
	}
	for _, p := range parts {
		if !p.Running && (!p.Restart || p.Restarts > restartsTolerated) {
			return fmt.Errorf("%s on %s has ended (%s); its log: %s", p.Name, m.Name, p.Exit, m.Log(p.Name))
		}
	}
	return nil
}

// Log is the file a part writes to.
func (m *Machine) Log(part string) string { return filepath.Join(m.Dir, "log", part+".log") }
