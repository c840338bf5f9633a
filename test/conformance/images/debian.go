package images

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// packages are those of Debian whose files images are made of; what they need comes along.
var packages = []string{
	"bash-static", "bind9-dnsutils", "bind9-host", "busybox-static", "curl", "dash", "hostname", "iperf", "iproute2",
	"libc-bin", "netcat-openbsd", "nginx", "socat", "stress", "util-linux",
}

// installed finds a package and its version in what a simulated installation says.
var installed = regexp.MustCompile(`(?m)^Inst (\S+) .*?\((\S+) `)

// unpackDebian downloads the packages and what they need, and unpacks them into a folder of the cache. They
// are resolved against an empty system, so that the result does not depend on what this machine has.
func (w *workshop) unpackDebian(ctx context.Context) (sysroot, error) {
	base := filepath.Join(w.cache, "debian")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", err
	}
	chosen, err := resolvePackages(ctx, base)
	if err != nil {
		return "", fmt.Errorf("choosing Debian's packages: %w", err)
	}
	root := sysroot(filepath.Join(base, fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(chosen, "\n"))))[:16]))
	if exists(string(root)) {
		return root, nil
	}
	w.logf("downloading %d packages of Debian", len(chosen))
	work, err := os.MkdirTemp(base, "unpacking-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work) // what an earlier error left; after success only downloads are in it
	if err := unpack(ctx, work, chosen); err != nil {
		return "", fmt.Errorf("unpacking Debian's packages: %w", err)
	}
	list := strings.Join(chosen, "\n") + "\n"
	if err := os.WriteFile(string(root)+".packages", []byte(list), 0o644); err != nil {
		return "", err
	}
	return root, os.Rename(filepath.Join(work, "root"), string(root))
}

// resolvePackages returns name=version of all that would be installed on an empty system. When apt knows
// no packages yet, its lists are fetched first.
func resolvePackages(ctx context.Context, dir string) ([]string, error) {
	status := filepath.Join(dir, "no-packages")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	simulate := append([]string{"-s", "-qq", "-o", "Dir::State::status=" + status, "-o", "APT::Install-Recommends=0",
		"-o", "Debug::NoLocking=1", "install"}, packages...)
	out, err := output(exec.CommandContext(ctx, "apt-get", simulate...))
	if err != nil {
		if _, failed := output(exec.CommandContext(ctx, "apt-get", "update", "-qq")); failed != nil {
			return nil, errors.Join(err, failed)
		}
		if out, err = output(exec.CommandContext(ctx, "apt-get", simulate...)); err != nil {
			return nil, err
		}
	}
	var chosen []string
	for _, m := range installed.FindAllSubmatch(out, -1) {
		chosen = append(chosen, string(m[1])+"="+string(m[2]))
	}
	if len(chosen) < len(packages) {
		return nil, fmt.Errorf("apt-get names %d packages, and %d were asked for", len(chosen), len(packages))
	}
	return chosen, nil
}

// unpack downloads packages into dir and unpacks them into dir/root.
func unpack(ctx context.Context, dir string, chosen []string) error {
	fetch := exec.CommandContext(ctx, "apt-get", append([]string{"-qq", "-o", "APT::Sandbox::User=root", "download"}, chosen...)...)
	fetch.Dir = dir
	if _, err := output(fetch); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) != len(chosen) {
		return fmt.Errorf("apt-get downloaded %d packages of %d", len(files), len(chosen))
	}
	for _, f := range files {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", f, filepath.Join(dir, "root"))); err != nil {
			return err
		}
	}
	return nil
}

// applets returns the programs that busybox is, by their paths ("bin/ls").
func (s sysroot) applets(ctx context.Context) ([]string, error) {
	out, err := output(exec.CommandContext(ctx, filepath.Join(string(s), "bin", "busybox"), "--list-full"))
	if err != nil {
		return nil, err
	}
	var all []string
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		all = append(all, lines.Text())
	}
	return all, nil
}
