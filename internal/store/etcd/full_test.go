package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/etcd"
)

const (
	fullDir   = "SKIFF_TEST_FULL_DIR"
	fullAcked = "SKIFF_TEST_FULL_ACKED"
)

// TestReallyFull lets the disk run full under the member, without the margin
// that normally stops writes before. The process must live on, say what
// happened to every caller, and find all it acknowledged at the next start.
func TestReallyFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs in a mount namespace of its own")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fullDir+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "ok\n") {
		t.Fatalf("%v:\n%s", err, out)
	}
}

func fillDisk(dir string) {
	step := fillMounted
	if os.Getenv(fullAcked) != "" {
		step = checkMounted
	}
	if err := step(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok")
	os.Exit(0)
}

func fillMounted(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("closing the mount namespace: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=140m"); err != nil {
		return fmt.Errorf("mounting: %w", err)
	}
	s, err := etcd.Open(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), MinFree: 1})
	if err != nil {
		return err
	}
	w, err := s.Watch(ctx, "/none/", 0)
	if err != nil {
		return err
	}
	acked := 0
	for {
		if _, err = put(ctx, s, fmt.Sprint("/k/", acked), make([]byte, 100<<10)); err != nil {
			break
		}
		acked++
	}
	fmt.Println(acked, "writes, then", err)
	if !errors.Is(err, store.ErrUnavailable) {
		return fmt.Errorf("write on a full disk: %w, want ErrUnavailable", err)
	}
	if _, err := w.Next(ctx); !errors.Is(err, store.ErrUnavailable) {
		return fmt.Errorf("watch on a full disk: %w, want ErrUnavailable", err)
	}
	if _, err := s.List(ctx, "/k/", store.ListOptions{}); !errors.Is(err, store.ErrUnavailable) {
		return fmt.Errorf("list on a full disk: %w, want ErrUnavailable", err)
	}
	select {
	case <-s.Failed():
	case <-ctx.Done():
		return errors.New("the failure was not announced")
	}
	if err := s.Close(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=400m"); err != nil {
		return fmt.Errorf("making room: %w", err)
	}
	// A new program in this namespace: the locks go with the old one.
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), fmt.Sprint(fullAcked, "=", acked)))
}

// checkMounted looks for what was acknowledged before the disk was full.
func checkMounted(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := etcd.Open(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), MinFree: 1})
	if err != nil {
		return err
	}
	defer s.Close()
	acked, err := strconv.Atoi(os.Getenv(fullAcked))
	if err != nil {
		return err
	}
	for i := range acked {
		if _, found, _, err := s.Get(ctx, fmt.Sprint("/k/", i), 0); err != nil || !found {
			return fmt.Errorf("write %d of %d was acknowledged and is lost: %w", i, acked, err)
		}
	}
	_, err = put(ctx, s, "/again", []byte("1"))
	return err
}

// A database whose space is not set aside cannot be written when others have
// filled the disk, and the member would have to give up.
func TestDatabaseHasItsSpace(t *testing.T) {
	dir := t.TempDir()
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	spacious := func() bool {
		t.Helper()
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "member", "snap", "db"), &stat); err != nil {
			t.Fatal(err)
		}
		return stat.Blocks*512 >= stat.Size
	}
	if !spacious() {
		t.Error("a new database has no space")
	}
	for i := range 24 {
		if _, err := put(t.Context(), s, fmt.Sprint("/k/", i), make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	// It grows when a batch is written, and gets its space with a write after that.
	for end := time.Now().Add(20 * time.Second); !spacious(); {
		if _, err := put(t.Context(), s, "/k/last", []byte("1")); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("a database that has grown has no space")
		}
	}
}
