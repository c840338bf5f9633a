package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"google.golang.org/protobuf/proto"
)

const (
	// groupsEnv names the number of shim processes that a node's pods are spread over.
	groupsEnv = "SKIFF_SHIM_GROUPS"
	// answerEnv names the file of the answer that the launcher gives (launcher/launcher.c).
	answerEnv = "SKIFF_SHIM_ANSWER"
	// onlyGroup is the group of all pods where there is one.
	onlyGroup = "pods-0"
	// sandboxAnnotation is how the CRI plugin names a container's pod sandbox in the OCI spec.
	sandboxAnnotation = "io.kubernetes.cri.sandbox-id"
)

// grouped is containerd's runc shim with a Start of our own, and a Stop that knows our sandboxes; Info
// is containerd's.
type grouped struct {
	shim.Shim
}

// Stop cleans up after a container whose shim is gone. It runs beside the container's bundle, or in it.
func (g *grouped) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	here, err := os.Getwd()
	if err != nil {
		return shim.StopStatus{}, fmt.Errorf("looking for the bundle of %s: %w", id, err)
	}
	if err := clean(filepath.Join(filepath.Dir(here), id)); err != nil {
		return shim.StopStatus{}, err
	}
	return g.Shim.Stop(ctx, id)
}

// Start returns the address of the process that serves the pod of the bundle in the working
// directory, and starts that process when it is not there yet.
func (g *grouped) Start(ctx context.Context, p *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	if p.GetSocketDir() == "" {
		return nil, errors.New("containerd named no directory for the shim's socket")
	}
	group, err := groupOf(p.GetInstanceID(), os.Getenv(groupsEnv))
	if err != nil {
		return nil, err
	}
	address, err := shim.CreateSocketAddress(ctx, p.GetSocketDir(), p.GetContainerdGrpcAddress(), group, false)
	if err != nil {
		return nil, fmt.Errorf("naming the socket of shim group %s: %w", group, err)
	}
	result := &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: address}
	if file := os.Getenv(answerEnv); file != "" && group == onlyGroup {
		if err := leaveAnswer(file, result); err != nil {
			return nil, err
		}
	}
	listener, err := listen(address)
	if err != nil {
		return nil, fmt.Errorf("listening for shim group %s: %w", group, err)
	}
	if listener == nil {
		return result, nil
	}
	defer listener.Close()
	if err := serve(ctx, p, listener); err != nil {
		_ = shim.RemoveSocket(address) // the failure to start the process is the one to report
		return nil, fmt.Errorf("starting the process of shim group %s: %w", group, err)
	}
	return result, nil
}

// groupOf returns the group of the bundle in the working directory: pods are spread over the groups,
// a container outside of any pod has a process of its own.
func groupOf(id, groups string) (string, error) {
	data, err := os.ReadFile("config.json")
	if err != nil {
		return "", fmt.Errorf("reading the bundle: %w", err)
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("reading the bundle: %w", err)
	}
	return groupName(id, spec.Annotations[sandboxAnnotation], groups)
}

// groupName is the rule of groupOf: groups is the text of SKIFF_SHIM_GROUPS, empty for one group.
func groupName(id, sandbox, groups string) (string, error) {
	if sandbox == "" {
		return id, nil
	}
	n := uint64(1)
	if groups != "" {
		var err error
		if n, err = strconv.ParseUint(groups, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("%s must be a number from 1 to 65535, not %q", groupsEnv, groups)
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(sandbox)) // never fails
	return fmt.Sprintf("pods-%d", uint64(h.Sum32())%n), nil
}

// leaveAnswer writes what the launcher answers in this program's place, while the socket takes
// connections: the path of the socket, and the result as containerd reads it.
func leaveAnswer(file string, result *bootapi.BootstrapResult) error {
	answer, err := proto.Marshal(result)
	if err != nil {
		return fmt.Errorf("leaving an answer for the launcher: %w", err)
	}
	path := strings.TrimPrefix(result.GetAddress(), "unix://")
	fresh := fmt.Sprintf("%s.%d", file, os.Getpid())
	err = os.WriteFile(fresh, append([]byte(path+"\n"), answer...), 0o600)
	if err == nil {
		err = os.Rename(fresh, file)
	}
	if err != nil {
		return fmt.Errorf("leaving an answer for the launcher: %w", err)
	}
	return nil
}

// listen binds the group's socket. It returns nil and no error when a process already serves it, and
// takes the place of a process that is gone.
func listen(address string) (*net.UnixListener, error) {
	l, err := shim.NewSocket(address)
	if err == nil {
		return keep(l), nil
	}
	if !shim.SocketEaddrinuse(err) {
		return nil, err
	}
	if shim.CanConnect(address) {
		return nil, nil
	}
	if err := shim.RemoveSocket(address); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("removing the socket of a dead shim: %w", err)
	}
	if l, err = shim.NewSocket(address); err != nil {
		return nil, err
	}
	return keep(l), nil
}

// keep leaves the socket's file in place when this process closes its copy of the listener.
func keep(l *net.UnixListener) *net.UnixListener {
	l.SetUnlinkOnClose(false)
	return l
}

// serve starts the long-running shim process on the listener, in a session of its own so that neither
// containerd's nor skiff's end reaches it.
func serve(ctx context.Context, p *bootapi.BootstrapParams, l *net.UnixListener) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	args := []string{"-namespace", namespace, "-id", p.GetInstanceID(), "-address", p.GetContainerdGrpcAddress()}
	if p.GetLogLevel() <= bootapi.LogLevel_LOG_LEVEL_DEBUG {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	// NOTIFY_SOCKET is containerd's; runc would hand it on to the containers.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "NOTIFY_SOCKET=")
	}), "GOMAXPROCS=2")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := shim.AdjustOOMScore(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill() // without its score the process is not to be used
		return err
	}
	return cmd.Process.Release()
}
