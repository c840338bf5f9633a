package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	gorunc "github.com/containerd/go-runc"

	"skiff.dev/skiff/internal/runtime/carried/shim/oci"
)

// command is an execution of runc that the task service asks for.
type command struct {
	root    string // runc's --root: one directory per container
	log     string // runc's --log: JSON lines, the last error is the one reported
	name    string // create, start, exec, kill, delete, ...
	bundle  string // of create
	pidFile string // of create and exec
	process string // of exec: the file that says what
	detach  bool   // of exec
	all     bool   // of kill
	force   bool   // of delete
	args    []string
	cmd     *exec.Cmd
}

// valued are the flags that are followed by a value in an argument of its own.
var valued = []string{"--root", "--log", "--log-format", "--bundle", "--pid-file", "--console-socket", "--format", "--process"}

// parse takes an execution of runc apart. ok is false for one with a flag that is not known here: that
// is runc's to carry out.
func parse(cmd *exec.Cmd) (c command, ok bool) {
	c.cmd = cmd
	args := cmd.Args[1:]
	for len(args) > 0 {
		arg, value := args[0], ""
		args = args[1:]
		for _, flag := range valued {
			if arg == flag && len(args) > 0 {
				value, args = args[0], args[1:]
			}
		}
		switch {
		case arg == "--root":
			c.root = value
		case arg == "--log":
			c.log = value
		case arg == "--bundle":
			c.bundle = value
		case arg == "--pid-file":
			c.pidFile = value
		case arg == "--process":
			c.process = value
		case arg == "--detach":
			c.detach = true
		case arg == "--all":
			c.all = true
		case arg == "--force":
			c.force = true
		case value != "" && (arg == "--log-format" || arg == "--format"):
		case strings.HasPrefix(arg, "-"):
			return c, false
		case c.name == "":
			c.name = arg
		default:
			c.args = append(c.args, arg)
		}
	}
	return c, c.name != "" && len(c.args) > 0 && c.root != ""
}

// id is the container's identifier.
func (c command) id() string { return c.args[0] }

// errRunc says that a command is to be carried out by runc after all.
var errRunc = oci.ErrRunc

// done tells the task service, in the way that runc would have, how a command carried out here ended.
func (c command) done(err error) chan gorunc.Exit {
	exit := gorunc.Exit{Timestamp: time.Now()}
	if err != nil {
		exit.Status = 1
		c.report(err)
	}
	ended := make(chan gorunc.Exit, 1)
	ended <- exit
	close(ended)
	return ended
}

// report writes an error to the command's log and its standard error: the one is read after create and
// start, the other after kill and delete.
func (c command) report(err error) {
	if c.cmd.Stderr != nil {
		fmt.Fprintln(c.cmd.Stderr, err) // the log below has it too
	}
	if c.log == "" {
		return
	}
	line, merr := json.Marshal(map[string]string{
		"level": "error", "msg": err.Error(), "time": time.Now().UTC().Format(time.RFC3339),
	})
	if merr != nil {
		return // never: these are strings
	}
	f, ferr := os.OpenFile(c.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if ferr != nil {
		return // the exit code says that it failed
	}
	defer f.Close()
	_, _ = f.Write(append(line, '\n')) // likewise
}
