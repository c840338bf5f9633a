package mount

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestConformance runs one suite on the fake and, as root, on the kernel in a mount namespace that
// ends with the thread.
func TestConformance(t *testing.T) {
	t.Run("fake", func(t *testing.T) {
		f := NewFake()
		conform(t, f, "/t", func(path string, dir bool) { f.Add(path, dir) })
	})
	t.Run("host", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED: needs root to mount")
		}
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread() // never unlocked: the thread, and with it the namespace, ends with the test
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
		conform(t, New(), dir, func(path string, isDir bool) {
			if isDir {
				err = os.MkdirAll(path, 0o755)
			} else if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				err = os.WriteFile(path, nil, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	})
}

func conform(t *testing.T, m Mounter, dir string, add func(path string, dir bool)) {
	a, b, file := dir+"/a", dir+"/b", dir+"/file"
	add(a, true)
	add(b, true)
	add(file, false)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error, want unix.Errno) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("got error %v, want %v", err, want)
		}
	}
	targets := func(want ...string) {
		t.Helper()
		mounts, err := m.List(dir)
		ok(err)
		var got []string
		for _, i := range mounts {
			ro := ""
			if i.ReadOnly {
				ro = " ro"
			}
			got = append(got, strings.TrimPrefix(i.Target, dir)+ro)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("mounts (-want +got):\n%s", diff)
		}
	}

	refused(m.Unmount(a), unix.EINVAL)
	refused(m.Unmount(dir+"/none"), unix.ENOENT)
	refused(m.Mount(Mount{Source: "tmpfs", Target: dir + "/none", Type: "tmpfs"}), unix.ENOENT)
	refused(m.Bind(file, a, BindOptions{}), unix.ENOTDIR)
	refused(m.RemountReadOnly(a), unix.EINVAL)
	if err := m.Bind("relative", a, BindOptions{}); err == nil {
		t.Fatal("a relative path was accepted")
	}

	ok(m.Mount(Mount{Source: "tmpfs", Target: a, Type: "tmpfs", Options: "size=64k,nosuid,mode=0700"}))
	add(a+"/sub", true)
	ok(m.Mount(Mount{Source: "tmpfs", Target: a + "/sub", Type: "tmpfs", Options: "ro"}))
	targets("/a", "/a/sub ro")
	ok(m.Bind(a, b, BindOptions{Recursive: true, ReadOnly: true}))
	targets("/a", "/a/sub ro", "/b ro", "/b/sub ro")
	ok(m.SetPropagation(b, Bidirectional))
	if yes, err := IsMountPoint(m, b); err != nil || !yes {
		t.Fatalf("IsMountPoint = %v, %v", yes, err)
	}
	ok(m.Unmount(b))
	targets("/a", "/a/sub ro")
	ok(m.Bind(a+"/sub", b, BindOptions{}))
	ok(m.RemountReadOnly(a))
	targets("/a ro", "/a/sub ro", "/b ro")
	ok(UnmountAll(m, dir))
	targets()
	ok(UnmountAll(m, dir))
}

func TestParse(t *testing.T) {
	const text = `22 1 254:0 / / ro,relatime - ext4 /dev/vda rw,discard
31 22 0:27 / /a\040b\134c rw shared:4 master:2 - tmpfs  rw,size=64k
32 31 0:28 /x / rw - fuse.a-b none rw
`
	got, err := Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Info{
		{ID: 22, Parent: 1, Root: "/", Target: "/", Type: "ext4", Source: "/dev/vda", ReadOnly: true, Super: "rw,discard"},
		{ID: 31, Parent: 22, Root: "/", Target: `/a b\c`, Type: "tmpfs", Shared: true, Super: "rw,size=64k"},
		{ID: 32, Parent: 31, Root: "/x", Target: "/", Type: "fuse.a-b", Source: "none", Super: "rw"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"1 2 3", "x 1 0:1 / / rw - a b c", "1 x 0:1 / / rw - a b c", "1 1 0:1 / / rw a b c"} {
		if _, err := Parse(strings.NewReader(bad)); err == nil {
			t.Errorf("Parse(%q) gave no error", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`31 22 0:27 / /a\040b rw shared:4 - tmpfs none rw`)
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := Parse(strings.NewReader(text))
		if err == nil && len(mounts) > strings.Count(text, "\n")+1 {
			t.Errorf("%d mounts from %q", len(mounts), text)
		}
	})
}
