package cluster

import (
	"context"
	"crypto/tls"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The images that BuildImages makes.
const (
	// WebApp is test/e2e/webapp.
	WebApp = "e2e/webapp:v1"
	// Tools is Debian's static busybox with all its applets, and webapp.
	Tools = "e2e/tools:v1"
)

func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } //nolint:gosec // see HTTP

// BuildImages puts WebApp and Tools into the node's runtime.
func (n *Node) BuildImages(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	app := filepath.Join(dir, "webapp")
	GoBuild(t, app, "./test/e2e/webapp")
	n.BuildImage(t, WebApp, "--binary", app, "--port", "8080/tcp")
	n.BuildImage(t, Tools, append(toolsSources(t, dir), "--add-binary", app+":/bin/webapp", "--cmd", "/bin/sh")...)
}

// GoBuild builds a program of this module, without cgo. Where there is no Go,
// $SKIFF_E2E_PROGRAMS is a directory with those that were built before.
func GoBuild(t testing.TB, out, pkg string) {
	t.Helper()
	if built := os.Getenv("SKIFF_E2E_PROGRAMS"); built != "" {
		program, err := os.ReadFile(filepath.Join(built, filepath.Base(pkg)))
		if err == nil {
			err = os.WriteFile(out, program, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir, cmd.Env = Root(), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
}

// toolsSources lays out /bin with busybox and a link per applet, and returns
// the flags that put it into an image.
func toolsSources(t testing.TB, dir string) []string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIPPED: busybox is missing (apt-get install busybox-static)")
	}
	root := filepath.Join(dir, "tools")
	for _, d := range []string{"bin", "tmp", "etc", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--dir", root + ":/", "--env", "PATH=/bin"}
}

// BuildImage puts an image into the node's runtime by `skiff image build`.
func (n *Node) BuildImage(t testing.TB, name string, sources ...string) {
	t.Helper()
	args := append([]string{"image", "build", "--data-dir", n.Dir, "--name", name, "--import"}, sources...)
	if out, err := n.Machine.Command(context.Background(), n.binary, args...).CombinedOutput(); err != nil {
		t.Fatalf("skiff image build %s: %v\n%s", name, err, out)
	}
}
