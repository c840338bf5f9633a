package robustness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// write creates an object of size bytes.
func write(ctx context.Context, api kubernetes.Interface, name string, size int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := api.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": strings.Repeat("x", size)},
	}, metav1.CreateOptions{})
	return err
}

// have checks that every name is there.
func have(t *testing.T, api kubernetes.Interface, names []string) {
	t.Helper()
	list, err := api.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, cm := range list.Items {
		there[cm.Name] = true
	}
	for _, name := range names {
		if !there[name] {
			t.Errorf("I1: %s was acknowledged and is not there", name)
		}
	}
}

// TestFullDisk lets the disk run full under the server, then makes room. While
// it is full, reads are answered and writes refused in time; nothing that was
// acknowledged is lost; with room again writes succeed without a restart.
//
// It needs root, for a small file system in a mount namespace of its own.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NEEDS ROOT: mounts a small tmpfs in a mount namespace")
	}
	s := newServer(t)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.wrap = []string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", `mount -t tmpfs -o size=320m,mode=700 none "$0" && exec "$@"`, s.dir}
	s.start()
	s.ready(startup)
	api := s.client()
	var acked []string
	ballast := filepath.Join(s.root(), s.dir, "ballast")
	for i := range 20 {
		name := fmt.Sprint("before-", i)
		if err := write(t.Context(), api, name, 1000); err != nil {
			t.Fatal(err)
		}
		acked = append(acked, name)
	}
	fill(t, ballast)
	refused := false
	for i := 0; i < 400 && !refused; i++ {
		name := fmt.Sprint("full-", i)
		began := time.Now()
		err := write(t.Context(), api, name, 500_000)
		if err == nil {
			acked = append(acked, name)
			continue
		}
		refused = true
		t.Logf("refused after %d writes on a full disk: %v", i, err)
		if took := time.Since(began); took >= patience {
			t.Errorf("the refusal took %v", took)
		}
	}
	if !refused {
		t.Error("200 MB were taken in on a full disk")
	}
	have(t, api, acked)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	var err error
	for end := time.Now().Add(startup); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = write(t.Context(), api, "after", 1000); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("writes are still refused with room on the disk: %v\n%s", err, s.out)
	}
	have(t, api, acked)
}

// fill writes to path until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); ; {
		_, err := f.Write(block)
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamage cuts the files of a stopped store short. The end of the log may be
// missing, for a machine may lose power in the middle of a write: the server
// starts with what was complete. Anything else that is missing makes it refuse
// to start, say which file, and change nothing.
func TestDamage(t *testing.T) {
	t.Run("end of the log", func(t *testing.T) {
		s, acked := stopped(t)
		logs := files(t, s.dir, ".wal")
		f, err := os.OpenFile(logs[len(logs)-1], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		end := lastByte(t, f)
		if err := f.Truncate(end - 3); err != nil { // a torn record
			t.Fatal(err)
		}
		s.start()
		s.ready(startup)
		have(t, s.client(), acked[:len(acked)-2])
		if err := write(t.Context(), s.client(), "after", 10); err != nil {
			t.Error(err)
		}
	})
	t.Run("database", func(t *testing.T) {
		s, _ := stopped(t)
		db := files(t, s.dir, "/db")
		if err := os.Truncate(db[0], 5000); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), startup)
		defer cancel()
		out, err := s.run(ctx)
		if err == nil || ctx.Err() != nil {
			t.Fatalf("the server did not refuse to start: %v\n%s", err, out)
		}
		if !strings.Contains(out, db[0]) {
			t.Errorf("it does not say which file is damaged:\n%s", out)
		}
		if strings.Contains(out, "goroutine ") {
			t.Errorf("it panicked:\n%s", out)
		}
		if info, err := os.Stat(db[0]); err != nil || info.Size() != 5000 {
			t.Errorf("the damaged file was changed: %v, %v", info, err)
		}
	})
}

// stopped returns a server that has been killed after some acknowledged writes.
func stopped(t *testing.T) (*server, []string) {
	t.Helper()
	s := newServer(t)
	s.start()
	s.ready(startup)
	var acked []string
	for i := range 50 {
		acked = append(acked, fmt.Sprint("object-", i))
		if err := write(t.Context(), s.client(), acked[i], 2000); err != nil {
			t.Fatal(err)
		}
	}
	s.kill()
	return s, acked
}

// files returns the files below dir whose path ends so, in order.
func files(t *testing.T, dir, end string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, end) {
			found = append(found, path)
		}
		return err
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("no file *%s below %s: %v", end, dir, err)
	}
	slices.Sort(found)
	return found
}

// lastByte returns where the last byte that is not zero lies: logs are laid out
// in advance.
func lastByte(t *testing.T, f *os.File) int64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, info.Size())
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	for i := len(data) - 1; i >= 0; i-- {
		if data[i] != 0 {
			return int64(i) + 1
		}
	}
	t.Fatal("the log is empty")
	return 0
}
