package images

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestShellIsChosenByTheEnvironment runs the launcher in a root where both shells only say their names.
func TestShellIsChosenByTheEnvironment(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("chroot needs root")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc")
	}
	root := t.TempDir()
	w := &workshop{source: "..", cache: filepath.Join(root, "cache")}
	launcher, err := w.shell(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(launcher, filepath.Join(root, "bin", "sh")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"busybox", "bash"} {
		source := filepath.Join(root, name+".c")
		text := `#include <stdio.h>
int main(int argc, char **argv) { printf("` + name + ` as %s with %s", argv[0], argv[argc - 1]); }`
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("gcc", "-static", "-o", filepath.Join(root, "bin", name), source).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, c := range []struct{ env, want string }{
		{"", "busybox"},
		{"PATH=/bin,_x1=a-b.c=d", "busybox"},
		{"my.config-key=1", "bash"},
		{"HOME=/,1st=1", "bash"},
		{"=1", "bash"},
	} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "true")
		cmd.Env = strings.Split(c.env, ",")
		if c.env == "" {
			cmd.Env = []string{}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		out, err := cmd.CombinedOutput()
		if want := c.want + " as /bin/sh with true"; err != nil || string(out) != want {
			t.Errorf("with %q: %q, %v; want %q", c.env, out, err, want)
		}
	}
}
