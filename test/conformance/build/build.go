// Package build makes the programs of the yardstick from Go modules: upstream's components and suite from
// this module, and what a stock node needs besides (etcd, containerd, runc, CNI plugins) from the module in
// parts/, so that neither settles the other's dependencies.
//
// It reads the two go.mod files and writes below the cache directory, into a folder named after what was
// read: a change of a version makes a new folder, and a second run over the same versions does nothing.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Version is that of Kubernetes which all is measured with.
const Version = "v1.37.1"

// part is a program and the way it is built.
type part struct {
	name, pkg string
	module    string   // its module's folder, below this module's
	flags     []string // of go build, besides the usual
	ldflags   string
	cgo, test bool
}

// versionFlags make upstream's programs say their version.
const versionFlags = "-X k8s.io/component-base/version.gitVersion=" + Version +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" +
	" -X k8s.io/component-base/version.gitTreeState=clean"

// parts are all programs, in the order in which they are built: the suite, by far the slowest, comes last.
func parts() []part {
	const k8s = "k8s.io/kubernetes/"
	var all []part
	node := func(name, pkg string) {
		all = append(all, part{name: name, pkg: pkg, module: "parts", flags: []string{"-tags", "netgo osusergo"}})
	}
	for _, name := range CNI {
		kind := map[string]string{"host-local": "ipam", "portmap": "meta"}[name]
		if kind == "" {
			kind = "main"
		}
		node("cni/"+name, "github.com/containernetworking/plugins/plugins/"+kind+"/"+name)
	}
	node("etcd", "go.etcd.io/etcd/server/v3")
	node("etcdctl", "go.etcd.io/etcd/etcdctl/v3")
	for _, name := range []string{"containerd-shim-runc-v2", "containerd", "ctr"} {
		node(name, "github.com/containerd/containerd/v2/cmd/"+name)
	}
	all = append(all, part{
		name: "runc", pkg: "github.com/opencontainers/runc", module: "parts", cgo: true,
		flags: []string{"-tags", "seccomp urfave_cli_no_docs netgo osusergo"}, ldflags: "-linkmode external -extldflags -static",
	})
	for _, name := range append(slices.Clone(Components), "kubectl") {
		all = append(all, part{name: name, pkg: k8s + "cmd/" + name, ldflags: versionFlags})
	}
	return append(all,
		part{name: "ginkgo", pkg: "github.com/onsi/ginkgo/v2/ginkgo"},
		part{name: "e2e.test", pkg: k8s + "test/e2e", ldflags: versionFlags, test: true})
}

// Components are the five that skiff has as well.
var Components = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"}

// CNI are the reference plugins that a stock node uses, in the folder cni.
var CNI = []string{"bridge", "loopback", "host-local", "portmap"}

// Suite are the programs of a conformance run, besides a cluster.
var Suite = []string{"kubectl", "ginkgo", "e2e.test"}

// Cluster are the programs of a stock cluster.
func Cluster() []string {
	var names []string
	for _, p := range parts() {
		if p.name != "ginkgo" && p.name != "e2e.test" {
			names = append(names, p.name)
		}
	}
	return names
}

// Cache is where everything is kept that this module makes: $SKIFF_YARDSTICK, or skiff-yardstick in the
// user's cache directory.
func Cache() (string, error) {
	if dir := os.Getenv("SKIFF_YARDSTICK"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache directory: %w", err)
	}
	return filepath.Join(dir, "skiff-yardstick"), nil
}

// Programs returns the folder of the programs, and sees to it that those named are in it. What is built,
// and how long it took, goes to log.
func Programs(ctx context.Context, module string, log io.Writer, names ...string) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	key, err := key(module)
	if err != nil {
		return "", fmt.Errorf("reading what the programs are built from: %w", err)
	}
	dir := filepath.Join(cache, key)
	if err := os.MkdirAll(filepath.Join(dir, "cni"), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	var missing []part
	for _, p := range parts() {
		if _, err := os.Stat(filepath.Join(dir, p.name)); err != nil && slices.Contains(names, p.name) {
			missing = append(missing, p)
		}
	}
	for i, p := range missing {
		fmt.Fprintf(log, "building %s (%d of %d)\n", p.name, i+1, len(missing))
		start := time.Now()
		if err := p.build(ctx, module, dir); err != nil {
			return "", fmt.Errorf("building %s: %w", p.name, err)
		}
		fmt.Fprintf(log, "built %s in %v\n", p.name, time.Since(start).Round(time.Second))
	}
	return dir, nil
}

// build builds one program; it appears whole or not at all.
func (p part) build(ctx context.Context, module, dir string) error {
	out := filepath.Join(dir, p.name)
	args := []string{"build"}
	if p.test {
		args = []string{"test", "-c", "-vet=off"} // upstream has vetted it
	}
	args = append(args, "-p", "2", "-trimpath", "-buildvcs=false", "-ldflags", strings.TrimSpace("-s -w "+p.ldflags))
	args = append(append(args, p.flags...), "-o", out+".new", p.pkg)
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "5", "go"}, args...)...)
	cmd.Dir = filepath.Join(module, p.module)
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if p.cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, complaints.String())
	}
	return os.Rename(out+".new", out)
}

// key is a digest of the versions, of the toolchain, and of how programs are built.
func key(module string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH, parts())
	for _, file := range []string{"go.mod", "go.sum", "parts/go.mod", "parts/go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", err
		}
		sum.Write(text) // a hash takes all
	}
	return fmt.Sprintf("%x", sum.Sum(nil))[:12], nil
}

// lock waits for other runs that use the same folder.
func lock(file string) (func(), error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", file, err), f.Close())
	}
	return func() { f.Close() }, nil // nothing was written to it; closing lets the lock go
}
