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
	"slices"
	"strconv"
	"strings"
	"syscall"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
)

const (
	// groupsEnv names the number of shim processes that a node's pods are spread over.
	groupsEnv = "SKIFF_SHIM_GROUPS"
	// sandboxAnnotation is how the CRI plugin names a container's pod sandbox in the OCI spec.
	sandboxAnnotation = "io.kubernetes.cri.sandbox-id"
)

// grouped is containerd's runc shim with a Start of our own; Stop and Info are containerd's.
type grouped struct {
	shim.Shim
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
