package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// versions are those of the CNI specification that the plugin speaks.
var versions = version.VersionsStartingFrom("0.4.0")

// Request is one call of the plugin, as the CNI specification has it.
type Request struct {
	// Env are the variables whose names begin with CNI_.
	Env map[string]string
	// Config is what comes on standard input.
	Config []byte
}

// command is what the plugin can be asked for by CNI_COMMAND.
type command struct {
	name  string
	needs []string // variables that must be there
	since string   // the first version of the specification that has it
	run   func(*Network, Request, io.Writer) error
}

// ofAttachment are the variables that name an attachment.
var ofAttachment = []string{"CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"}

// commands are all but VERSION, which needs nothing.
var commands = []command{
	{"ADD", append([]string{"CNI_NETNS"}, ofAttachment...), "0.4.0", (*Network).answerAdd},
	{"DEL", ofAttachment, "0.4.0", func(n *Network, r Request, _ io.Writer) error {
		return n.Del(r.Env["CNI_CONTAINERID"], r.Env["CNI_IFNAME"])
	}},
	{"CHECK", append([]string{"CNI_NETNS"}, ofAttachment...), "0.4.0", func(n *Network, r Request, _ io.Writer) error {
		return n.Check(r.Env["CNI_CONTAINERID"], r.Env["CNI_NETNS"], r.Env["CNI_IFNAME"])
	}},
	{"GC", []string{"CNI_PATH"}, "1.1.0", func(n *Network, _ Request, _ io.Writer) error { return n.GC(n.ValidAttachments) }},
	{"STATUS", []string{"CNI_PATH"}, "1.1.0", func(n *Network, _ Request, _ io.Writer) error { return n.Status() }},
}

// Main runs the plugin as CNI asks for it in the environment and on standard
// input, and returns the code to exit with.
func Main() int {
	r := Request{Env: map[string]string{}}
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "CNI_") {
			r.Env[name] = value
		}
	}
	if r.Env["CNI_COMMAND"] == "" {
		fmt.Fprintln(os.Stderr, "skiff network plugin, CNI versions "+strings.Join(versions.SupportedVersions(), ", "))
		return 0
	}
	var err error
	if r.Config, err = io.ReadAll(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "reading network configuration:", err)
		return 1
	}
	out, code := r.Answer()
	if _, err := os.Stdout.Write(out); err != nil {
		return 1
	}
	return code
}

// Answer carries the request out. It returns what belongs on standard output, a
// result or an error in CNI's form, and the exit code.
func (r Request) Answer() (out []byte, code int) {
	var b bytes.Buffer
	err := r.run(&b)
	if err == nil {
		return b.Bytes(), 0
	}
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	out, err = json.MarshalIndent(e, "", "    ")
	if err != nil { // never: these are a number and strings
		return nil, 1
	}
	return append(out, '\n'), 1
}

// run is Answer without the form of errors.
func (r Request) run(out io.Writer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = types.NewError(types.ErrInternal, fmt.Sprint("the plugin failed: ", p), string(debug.Stack()))
		}
	}()
	name := r.Env["CNI_COMMAND"]
	if name == "VERSION" {
		return versions.Encode(out)
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("no such CNI_COMMAND: %q", name), "")
	}
	if err := r.check(commands[i]); err != nil {
		return err
	}
	n, err := r.network(commands[i])
	if err != nil {
		return err
	}
	return commands[i].run(n, r, out)
}

// check reports variables that a command misses, or that name files elsewhere.
func (r Request) check(c command) error {
	var missing []string
	for _, name := range c.needs {
		if r.Env[name] == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, c.name+" needs "+strings.Join(missing, ", "), "")
	}
	if !slices.Contains(c.needs, "CNI_CONTAINERID") {
		return nil
	}
	if err := utils.ValidateContainerID(r.Env["CNI_CONTAINERID"]); err != nil {
		return err
	}
	if err := utils.ValidateInterfaceName(r.Env["CNI_IFNAME"]); err != nil {
		return err
	}
	return nil
}

// network reads the configuration for a command.
func (r Request) network(c command) (*Network, error) {
	n := &Network{}
	if err := json.Unmarshal(r.Config, n); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "reading network configuration", err.Error())
	}
	if err := utils.ValidateNetworkName(n.Name); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "the network has no valid name", err.Details)
	}
	if !slices.Contains(versions.SupportedVersions(), n.CNIVersion) {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", fmt.Sprintf(
			"config is %q, plugin supports %q", n.CNIVersion, versions.SupportedVersions()))
	}
	if ok, err := version.GreaterThanOrEqualTo(n.CNIVersion, c.since); err != nil || !ok {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, "config version does not allow "+c.name, "")
	}
	if n.HostPortTable == "" || n.StateDir == "" || len(n.PodCIDRs) == 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "hostPortTable, stateDir and podCIDRs are required", "")
	}
	return n, nil
}

func (n *Network) answerAdd(r Request, out io.Writer) error {
	netns := r.Env["CNI_NETNS"]
	own, err := isOwn(netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, "looking for the container's network namespace", err.Error())
	}
	if override := strings.ToLower(r.Env["CNI_NETNS_OVERRIDE"]); own && override != "1" && override != "true" {
		return types.NewError(types.ErrInvalidNetNS, "the container's network namespace is the node's", netns)
	}
	result, err := n.Add(r.Env["CNI_CONTAINERID"], netns, r.Env["CNI_IFNAME"])
	if err != nil {
		return err
	}
	asked, err := result.GetAsVersion(n.CNIVersion)
	if err != nil {
		return err
	}
	return asked.PrintTo(out)
}

// isOwn tells whether a network namespace is the calling thread's.
func isOwn(netns string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Stat(netns, &a); err != nil {
		return false, &os.PathError{Op: "stat", Path: netns, Err: err}
	}
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Stat(own, &b); err != nil {
		return false, &os.PathError{Op: "stat", Path: own, Err: err}
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}
