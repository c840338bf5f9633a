package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

func TestConfigDefaults(t *testing.T) {
	c, err := Config{DataDir: "/d"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if c.SandboxImage != DefaultSandboxImage || c.CNIConfDir != "/d/cni/net.d" || c.ShimGroups != 1 || c.Log == nil {
		t.Errorf("defaults: %+v", c)
	}
	for what, bad := range map[string]Config{
		"no directory":        {},
		"unknown snapshotter": {DataDir: "/d", Snapshotter: "zfs"},
		"negative groups":     {DataDir: "/d", ShimGroups: -1},
	} {
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestLayout keeps the sockets within what the kernel and containerd take, however long the data
// directory's name is, and apart from those of another one.
func TestLayout(t *testing.T) {
	long := layoutOf("/" + strings.Repeat("very/long/", 30))
	if len(long.socket) > 100 || len(long.shims) > 42 {
		t.Errorf("socket paths are too long: %s %s", long.socket, long.shims)
	}
	if layoutOf("/a").run == layoutOf("/b").run || layoutOf("/a").run != layoutOf("/a/").run {
		t.Error("the directories below /run are not one to one with the data directories")
	}
}

// lookup follows keys through decoded TOML.
func lookup(t *testing.T, table map[string]any, keys ...string) any {
	t.Helper()
	var at any = table
	for _, k := range keys {
		m, ok := at.(map[string]any)
		if !ok {
			t.Fatalf("no %q in the configuration", keys)
		}
		at = m[k]
	}
	return at
}

func TestContainerdConfig(t *testing.T) {
	c, err := Config{DataDir: `/data "x"`, ShimGroups: 3}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := layoutOf(c.DataDir)
	for _, may := range []bool{false, true} {
		data, err := containerdConfig(c, l, host{arch: "amd64", snapshotter: "native", mayLowerOOMScore: may}, "abc")
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := toml.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			value any
			keys  []string
		}{
			{int64(4), []string{"version"}},
			{`/data "x"/runtime/containerd`, []string{"root"}},
			{l.socket, []string{"plugins", "io.containerd.server.v1.grpc", "address"}},
			{!may, []string{"plugins", "io.containerd.cri.v1.runtime", "restrict_oom_score_adj"}},
			{"native", []string{"plugins", "io.containerd.cri.v1.images", "snapshotter"}},
			{"127.0.0.1", []string{"plugins", "io.containerd.grpc.v1.cri", "stream_server_address"}},
			{false, []string{"plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes", "runc", "options", "SystemdCgroup"}},
		} {
			if v := lookup(t, got, want.keys...); v != want.value {
				t.Errorf("%q = %v, want %v", want.keys, v, want.value)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("HTTPS_PROXY", "http://proxy")
	t.Setenv("PATH", "/bin")
	l := layoutOf("/d")
	env := strings.Join(l.environment(), "\n")
	if strings.Contains(env, "secret") || !strings.Contains(env, "HTTPS_PROXY=http://proxy") ||
		!strings.Contains(env, "SKIFF_CNI_SOCKET="+CNISocketOf("/d")) || !strings.Contains(env, cniResultsEnv+"="+l.run+"/") ||
		!strings.Contains(env, "PATH=/d/runtime/bin:/bin") {
		t.Errorf("environment:\n%s", env)
	}
}

// TestExtract damages an extracted program in the ways that happen to files.
func TestExtract(t *testing.T) {
	if err := Carried(); err != nil {
		t.Skip("SKIPPED:", err)
	}
	dir := t.TempDir()
	runc := filepath.Join(dir, runcName)
	look := func() os.FileInfo {
		t.Helper()
		if err := extract(dir); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(runc)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := look()
	if first.Mode() != 0o700 {
		t.Errorf("mode %v, want 0700", first.Mode())
	}
	if again := look(); !os.SameFile(first, again) {
		t.Error("an unchanged program was written again")
	}
	for what, damage := range map[string]func() error{
		"removed":   func() error { return os.Remove(runc) },
		"truncated": func() error { return os.Truncate(runc, 10) },
		"replaced":  func() error { return os.WriteFile(runc, []byte("#!/bin/sh"), 0o700) },
		"no record": func() error { return os.Remove(filepath.Join(dir, "extracted.json")) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if info := look(); info.Size() != first.Size() {
			t.Errorf("%s: not restored", what)
		}
	}
}

func TestResetRefusesTheRoot(t *testing.T) {
	if err := Reset("/"); err == nil {
		t.Error("Reset of / was not refused")
	}
}
