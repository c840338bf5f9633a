package volume

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/mount"
)

// ownMounts gives the test a mount namespace of its own, which ends with its
// thread.
func ownMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to mount")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func emptyDir(medium v1.StorageMedium, size string) v1.VolumeSource {
	s := &v1.EmptyDirVolumeSource{Medium: medium}
	if size != "" {
		q := resource.MustParse(size)
		s.SizeLimit = &q
	}
	return v1.VolumeSource{EmptyDir: s}
}

func TestEmptyDir(t *testing.T) {
	ownMounts(t)
	m := newManager(t, newWorld(), mount.New())
	group := int64(1234)
	p := podWith(emptyDir("", ""), emptyDir(v1.StorageMediumMemory, "1Mi"))
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	must(t, m.Mount(t.Context(), p))
	for i := range 2 {
		info, err := os.Stat(m.path(p, i, ""))
		must(t, err)
		if st := info.Sys().(*syscall.Stat_t); st.Gid != 1234 || info.Mode() != os.ModeDir|os.ModeSetgid|0o777 {
			t.Errorf("volume %d: %v, group %d", i, info.Mode(), st.Gid)
		}
		must(t, os.WriteFile(m.path(p, i, "data"), []byte("kept"), 0o600), os.Chmod(m.path(p, i, ""), 0o700))
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(m.path(p, 1, ""), &fs))
	if got := fs.Blocks * uint64(fs.Bsize); got != 1<<20 {
		t.Errorf("the volume in memory has %d bytes", got)
	}
	must(t, New(m.Config).Mount(t.Context(), p)) // as after a restart
	for i := range 2 {
		if data, err := os.ReadFile(m.path(p, i, "data")); string(data) != "kept" {
			t.Errorf("volume %d after another Mount: %q %v", i, data, err)
		}
		if info, _ := os.Stat(m.path(p, i, "")); info.Mode().Perm() != 0o700 {
			t.Errorf("volume %d: the container's mode was overwritten: %v", i, info.Mode())
		}
	}
	must(t, New(m.Config).Unmount(t.Context(), p.UID), m.Unmount(t.Context(), p.UID))
	left, err := mount.New().List(m.Layout.Root)
	if err != nil || len(left) > 0 {
		t.Errorf("mounts left: %v %v", left, err)
	}
}

func TestEmptyDirRefuses(t *testing.T) {
	m := newManager(t, newWorld(), table{mount.NewFake()})
	for medium, want := range map[v1.StorageMedium]string{
		"Tape":          `unknown storage medium "Tape"`,
		"HugePages-2Mi": `medium "HugePages-2Mi": no container of the pod requests huge pages of that size`,
		"HugePages":     `medium "HugePages" needs containers that request huge pages of exactly one size`,
	} {
		err := m.Mount(t.Context(), podWith(emptyDir(medium, "")))
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", medium, err, want)
		}
	}
	p := podWith(emptyDir("HugePages-2Mi", ""))
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")}
	if err := m.Mount(t.Context(), p); err == nil || !strings.Contains(err.Error(), "this node has no huge pages of size 2Mi") {
		t.Errorf("without huge pages: %v", err)
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	file, sock := filepath.Join(dir, "file"), filepath.Join(dir, "sock")
	must(t, os.WriteFile(file, nil, 0o600))
	l, err := net.Listen("unix", sock)
	must(t, err)
	defer l.Close()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, tt := range []struct {
		path string
		kind v1.HostPathType
		err  string // what is not so
	}{
		{at("absent"), v1.HostPathUnset, ""},
		{dir, v1.HostPathDirectory, ""},
		{file, v1.HostPathDirectory, "a directory"},
		{at("absent"), v1.HostPathDirectory, "a directory"},
		{file, v1.HostPathFile, ""},
		{dir, v1.HostPathFile, "a file"},
		{at("absent"), v1.HostPathFile, "a file"},
		{sock, v1.HostPathSocket, ""},
		{file, v1.HostPathSocket, "a socket file"},
		{"/dev/null", v1.HostPathCharDev, ""},
		{file, v1.HostPathCharDev, "a character device"},
		{"/dev/null", v1.HostPathBlockDev, "a block device"},
		{at("made/deep"), v1.HostPathDirectoryOrCreate, ""},
		{at("made/deep"), v1.HostPathDirectory, ""},
		{at("made/f"), v1.HostPathFileOrCreate, ""},
		{at("made/f"), v1.HostPathFile, ""},
		{dir, v1.HostPathFileOrCreate, "a file"},
		{file, v1.HostPathDirectoryOrCreate, "a directory"},
	} {
		err := setUpHostPath(&v1.HostPathVolumeSource{Path: tt.path, Type: &tt.kind})
		want := fmt.Sprintf("hostPath type check failed: %s is not %s", tt.path, tt.err)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s as %q: %v", tt.path, tt.kind, err)
		}
	}
}

func TestGroupOfFiles(t *testing.T) {
	ownMounts(t)
	w := newWorld()
	w.setConfig("cm", "k", "v")
	m := newManager(t, w, mount.New())
	group, user := int64(1234), int64(77)
	p := podWith(configMap("cm"), v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
	}}})
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group, RunAsUser: &user}
	must(t, m.Mount(t.Context(), p), m.Mount(t.Context(), p))
	for i, want := range map[int]string{0: "k -rw-r--r-- 0:1234", 1: "token -rw-r----- 77:1234"} {
		name, _, _ := strings.Cut(want, " ")
		info, err := os.Stat(m.path(p, i, name))
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%s %v %d:%d", name, info.Mode(), st.Uid, st.Gid); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	must(t, m.Unmount(t.Context(), p.UID))
}

func containerWith(mounts ...v1.VolumeMount) *v1.Container {
	return &v1.Container{Name: "c", VolumeMounts: mounts}
}

func TestMounts(t *testing.T) {
	ownMounts(t)
	w := newWorld()
	w.setConfig("cm", "k", "v")
	m := newManager(t, w, mount.New())
	m.RecursiveReadOnly = func(string) bool { return true }
	host := t.TempDir()
	p := podWith(emptyDir("", ""), configMap("cm"), v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host}})
	must(t, m.Mount(t.Context(), p))
	both, enabled := v1.MountPropagationBidirectional, v1.RecursiveReadOnlyEnabled
	got, err := m.Mounts(t.Context(), p, containerWith(
		v1.VolumeMount{Name: "v0", MountPath: "/data"},
		v1.VolumeMount{Name: "v1", MountPath: "cm"},
		v1.VolumeMount{Name: "v2", MountPath: "/host", MountPropagation: &both, ReadOnly: true, RecursiveReadOnly: &enabled},
		v1.VolumeMount{Name: "v0", MountPath: "/sub", SubPathExpr: "$(POD)/new/./dir"},
		v1.VolumeMount{Name: "v1", MountPath: "/one", SubPath: "k"},
	), map[string]string{"POD": "p"})
	must(t, err)
	sub := filepath.Join(m.Layout.SubpathsDir(p.UID), "v0", "c", "3")
	for i, want := range []*runtimeapi.Mount{
		{ContainerPath: "/data", HostPath: m.path(p, 0, "")},
		{ContainerPath: "/cm", HostPath: m.path(p, 1, ""), Readonly: true},
		{ContainerPath: "/host", HostPath: host, Readonly: true, RecursiveReadOnly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		{ContainerPath: "/sub", HostPath: sub},
		{ContainerPath: "/one", HostPath: filepath.Join(m.Layout.SubpathsDir(p.UID), "v1", "c", "4"), Readonly: true},
	} {
		if got[i].String() != want.String() {
			t.Errorf("mount %d: %v, want %v", i, got[i], want)
		}
	}
	must(t, os.WriteFile(filepath.Join(sub, "f"), nil, 0o600))
	if _, err := os.Stat(m.path(p, 0, "p/new/dir/f")); err != nil {
		t.Errorf("written through the subPath: %v", err)
	}
	if data, _ := os.ReadFile(got[4].HostPath); string(data) != "v" {
		t.Errorf("a file as subPath holds %q", data)
	}
	// The next instance gets the same, and what the volume has now.
	w.setConfig("cm", "k", "v2")
	must(t, m.Mount(t.Context(), p))
	again, err := m.Mounts(t.Context(), p, containerWith(p.Spec.Containers[0].VolumeMounts...), nil)
	must(t, err)
	if len(again) > 0 {
		t.Errorf("without volume mounts: %v", again)
	}
	_, err = m.Mounts(t.Context(), p, containerWith(make4()...), nil)
	must(t, err)
	if data, _ := os.ReadFile(got[4].HostPath); string(data) != "v2" {
		t.Errorf("the next instance sees %q", data)
	}
	must(t, m.Unmount(t.Context(), p.UID))
	if left, _ := mount.New().List(m.Layout.Root); len(left) > 0 {
		t.Errorf("mounts left: %v", left)
	}
}

// make4 are volume mounts whose last has the index that TestMounts looks at.
func make4() []v1.VolumeMount {
	out := make([]v1.VolumeMount, 4, 5)
	for i := range out {
		out[i] = v1.VolumeMount{Name: "v0", MountPath: fmt.Sprint("/", i)}
	}
	return append(out, v1.VolumeMount{Name: "v1", MountPath: "/one", SubPath: "k"})
}

// TestSubPathStaysInside: paths and links that lead out are refused, also
// while a container moves them about (CVE-2021-25741).
func TestSubPathStaysInside(t *testing.T) {
	ownMounts(t)
	m := newManager(t, newWorld(), mount.New())
	p := podWith(emptyDir("", ""))
	must(t, m.Mount(t.Context(), p))
	secret := filepath.Join(m.Layout.Root, "secret")
	must(t, os.Mkdir(secret, 0o700), os.WriteFile(filepath.Join(secret, "host"), nil, 0o600))
	v := m.path(p, 0, "")
	must(t, os.Symlink("/", filepath.Join(v, "abs")), os.Symlink("../../../../..", filepath.Join(v, "up")),
		os.Symlink("/proc/self/root", filepath.Join(v, "magic")), os.Mkdir(filepath.Join(v, "in"), 0o755),
		os.Symlink("in", filepath.Join(v, "ok")))
	mountsOf := func(sub string) error {
		_, err := m.Mounts(t.Context(), p, containerWith(v1.VolumeMount{Name: "v0", MountPath: "/x", SubPath: sub}), nil)
		return err
	}
	for _, sub := range []string{"abs", "up", "magic", "abs/etc", "up/secret", "up/new", "../x", "/etc", "ok/../../.."} {
		if err := mountsOf(sub); err == nil {
			t.Errorf("subPath %q was not refused", sub)
		}
	}
	if err := mountsOf("ok"); err != nil {
		t.Errorf("a link within the volume: %v", err)
	}
	_, err := m.Mounts(t.Context(), p, containerWith(v1.VolumeMount{Name: "v0", MountPath: "/x", SubPathExpr: "$(NO)"}), nil)
	if err == nil || err.Error() != `missing value for "NO"` {
		t.Errorf("an unknown variable: %v", err)
	}
	race(t, v, func() {
		f, err := openBeneath(v, "swap/host")
		if err != nil {
			return
		}
		defer f.Close()
		if to, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); !strings.HasPrefix(to, v) {
			t.Fatalf("resolved to %s", to)
		}
	})
	must(t, m.Unmount(t.Context(), p.UID))
	if _, err := os.Stat(filepath.Join(secret, "host")); err != nil {
		t.Error(err)
	}
}

// race calls f many times while a name in the volume is now a directory, now
// a link to one outside.
func race(t *testing.T, volume string, f func()) {
	t.Helper()
	dir, link, swap := filepath.Join(volume, "dir"), filepath.Join(volume, "link"), filepath.Join(volume, "swap")
	must(t, os.MkdirAll(filepath.Join(dir, "host"), 0o755), os.Symlink("../../../../../secret", link), os.Symlink("dir", swap))
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, swap, unix.RENAME_EXCHANGE)
		}
	}()
	for range 3000 {
		f()
	}
	stop.Store(true)
	<-done
}

// TestUnmountNeverDeletesThroughMounts: what is mounted into a volume is
// unmounted, not emptied; what cannot be unmounted stops the removal (I28).
func TestUnmountNeverDeletesThroughMounts(t *testing.T) {
	ownMounts(t)
	m := newManager(t, newWorld(), mount.New())
	p := podWith(emptyDir("", ""))
	must(t, m.Mount(t.Context(), p))
	precious := t.TempDir()
	file := filepath.Join(precious, "data")
	inside := m.path(p, 0, "a/b")
	must(t, os.WriteFile(file, nil, 0o600), os.MkdirAll(inside, 0o755), os.Symlink(precious, m.path(p, 0, "link")))
	must(t, mount.New().Bind(precious, inside, mount.BindOptions{}))
	// removeTree by itself must stop at the mount.
	if err := removeTree(m.Layout.VolumesDir(p.UID)); err == nil || !strings.Contains(err.Error(), errMounted.Error()) {
		t.Errorf("removing through a mount: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	must(t, m.Unmount(t.Context(), p.UID))
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestRemoveTreeOfAnyDepth(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep")
	must(t, os.Mkdir(dir, 0o755))
	at, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	must(t, err)
	for range 3000 { // deeper than a path can name
		must(t, unix.Mkdirat(at, "directory", 0o755))
		next, err := unix.Openat(at, "directory", unix.O_DIRECTORY, 0)
		must(t, err, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at), os.WriteFile(filepath.Join(dir, "file"), nil, 0o400))
	must(t, removeTree(dir))
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Error(err)
	}
}
