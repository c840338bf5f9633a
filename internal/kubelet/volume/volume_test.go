package volume

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/mount"
)

// world is the API of a test: objects in maps.
type world struct {
	mu         sync.Mutex
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	changed    map[types.UID]func()
	tokens     int
	down       error
	pods       chan *v1.Pod
}

func newWorld() *world {
	return &world{
		configMaps: map[string]*v1.ConfigMap{}, secrets: map[string]*v1.Secret{},
		changed: map[types.UID]func(){}, pods: make(chan *v1.Pod),
	}
}

func (w *world) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down != nil {
		return nil, w.down
	}
	if c := w.configMaps[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}

func (w *world) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.secrets[name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func (w *world) Token(_ context.Context, _, account string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if account == "absent" {
		return nil, apierrors.NewNotFound(v1.Resource("serviceaccounts"), account)
	}
	w.tokens++
	out := r.DeepCopy()
	out.Status.Token = strings.Repeat("t", w.tokens) + strings.Join(r.Spec.Audiences, ",")
	out.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second))
	return out, nil
}

func (w *world) Hold(uid types.UID, _ string, configMaps, secrets []string, changed func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed[uid] = changed
}

func (w *world) FollowPods(ctx context.Context, f func(*v1.Pod)) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-w.pods:
			f(p)
		}
	}
}

func (w *world) setConfig(name, key, value string) {
	w.mu.Lock()
	w.configMaps[name] = &v1.ConfigMap{Data: map[string]string{key: value}}
	tell := w.changed["u1"]
	w.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// table is a Mounter in memory that knows every directory of the disk.
type table struct{ *mount.Fake }

func (t table) Mount(m mount.Mount) error {
	t.Add(m.Target, true)
	return t.Fake.Mount(m)
}

func newManager(t *testing.T, w *world, m mount.Mounter) *Manager {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{
		Layout: layout.Below(dir), Mounter: m, Objects: w, Log: slog.New(slog.DiscardHandler),
		Allocatable: func() v1.ResourceList { return v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi")} },
	})
}

func podWith(sources ...v1.VolumeSource) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "p", UID: "u1", Labels: map[string]string{"a": "1"},
	}}
	p.Spec.Containers = []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}}}}
	for i, s := range sources {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: "v" + string(rune('0'+i)), VolumeSource: s})
	}
	return p
}

func configMap(name string, items ...v1.KeyToPath) v1.VolumeSource {
	return v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}, Items: items}}
}

func (m *Manager) path(p *v1.Pod, i int, name string) string {
	return filepath.Join(m.dir(p, &p.Spec.Volumes[i]), name)
}

// show returns the files that a program sees in a volume, with their modes.
func show(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		top, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(filepath.Dir(top), path)
			data, err := os.ReadFile(path)
			info, _ := d.Info()
			out[rel] = info.Mode().String() + " " + string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestContents(t *testing.T) {
	w := newWorld()
	w.configMaps["cm"] = &v1.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0}}}
	w.secrets["s"] = &v1.Secret{Data: map[string][]byte{"key": []byte("hush")}}
	mode, optional, seconds := int32(0o400), true, int64(600)
	item := v1.DownwardAPIVolumeFile{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}
	limit := v1.DownwardAPIVolumeFile{Path: "cpu", Mode: &mode, ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu"}}
	for name, tt := range map[string]struct {
		source v1.VolumeSource
		want   map[string]string
		err    string
	}{
		"config map": {source: configMap("cm"), want: map[string]string{"a": "-rw-r--r-- 1", "b": "-rw-r--r-- 2", "bin": "-rw-r--r-- \x00"}},
		"config map items": {source: configMap("cm", v1.KeyToPath{Key: "a", Path: "x/y/z"}, v1.KeyToPath{Key: "b", Path: "x/b", Mode: &mode}),
			want: map[string]string{"x/y/z": "-rw-r--r-- 1", "x/b": "-r-------- 2"}},
		"no such config map": {source: configMap("absent"), err: `MountVolume.SetUp failed for volume "v0" : configmap "absent" not found`},
		"no such key":        {source: configMap("cm", v1.KeyToPath{Key: "z", Path: "z"}), err: `MountVolume.SetUp failed for volume "v0" : references non-existent config key: z`},
		"optional":           {source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "absent"}, Optional: &optional}}, want: map[string]string{}},
		"secret":             {source: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}}, want: map[string]string{"key": "-r-------- hush"}},
		"no such secret":     {source: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "x"}}, err: `MountVolume.SetUp failed for volume "v0" : secret "x" not found`},
		"no such secret key": {source: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", Items: []v1.KeyToPath{{Key: "q", Path: "q"}}}},
			err: `MountVolume.SetUp failed for volume "v0" : references non-existent secret key: q`},
		"downward": {source: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{item, limit}}},
			want: map[string]string{"labels": `-rw-r--r-- a="1"`, "cpu": "-r-------- 2"}},
		"projected": {source: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Items: []v1.KeyToPath{{Key: "a", Path: "ca.crt"}}}},
			{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "s"}}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{item}}},
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", Audience: "vault", ExpirationSeconds: &seconds}},
		}}}, want: map[string]string{"ca.crt": "-rw-r--r-- 1", "key": "-rw-r--r-- hush", "labels": `-rw-r--r-- a="1"`, "token": "-rw-r--r-- tvault"}},
		"claim": {source: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}},
			err: `MountVolume.SetUp failed for volume "v0" : no volume plugin matched: volumes of persistent volume claim "data" are not supported by this node`},
		"path out of the volume": {source: configMap("cm", v1.KeyToPath{Key: "a", Path: "../a"}), err: `MountVolume.SetUp failed for volume "v0" : invalid path: must not start with '..': ../a`},
	} {
		t.Run(name, func(t *testing.T) {
			w.tokens = 0
			m, p := newManager(t, w, table{mount.NewFake()}), podWith(tt.source)
			for range 2 { // the second time nothing is to be done
				err := m.Mount(t.Context(), p)
				if tt.err != "" {
					if err == nil || err.Error() != tt.err {
						t.Fatalf("error %v, want %s", err, tt.err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, show(t, m.path(p, 0, ""))); diff != "" {
					t.Error(diff)
				}
			}
			if err := m.Unmount(t.Context(), p.UID); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(m.Layout.VolumesDir(p.UID)); !os.IsNotExist(err) {
				t.Errorf("after Unmount: %v", err)
			}
		})
	}
}

func TestWriteSwapsAtOnce(t *testing.T) {
	dir := t.TempDir()
	step := func(want files) {
		t.Helper()
		if err := write(dir, want, nil); err != nil {
			t.Fatal(err)
		}
	}
	step(files{"a": {content: []byte("1"), mode: 0o644}, "d/x": {content: []byte("x"), mode: 0o600}})
	first, _ := os.Readlink(filepath.Join(dir, dataLink))
	open, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	step(files{"a": {content: []byte("1"), mode: 0o644}, "d/x": {content: []byte("x"), mode: 0o600}})
	if again, _ := os.Readlink(filepath.Join(dir, dataLink)); again != first {
		t.Error("written again although nothing changed")
	}
	if err := os.Mkdir(filepath.Join(dir, "..left-by-a-crash"), 0o755); err != nil {
		t.Fatal(err)
	}
	step(files{"a": {content: []byte("2"), mode: 0o644}, "e": {content: []byte("e"), mode: 0o644}})
	if diff := cmp.Diff(map[string]string{"a": "-rw-r--r-- 2", "e": "-rw-r--r-- e"}, show(t, dir)); diff != "" {
		t.Error(diff)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 4 { // a, e, ..data and one state
		t.Errorf("left in the volume: %v", entries)
	}
	if data := make([]byte, 1); true {
		if _, err := open.Read(data); err != nil || string(data) != "1" {
			t.Errorf("a file that is open changed: %q %v", data, err)
		}
	}
}

// TestLiveUpdates changes objects, labels and the clock under a mounted pod.
func TestLiveUpdates(t *testing.T) {
	w := newWorld()
	w.setConfig("cm", "k", "old")
	m := newManager(t, w, table{mount.NewFake()})
	seconds := int64(3600)
	p := podWith(configMap("cm"), v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "l", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['a']"}}}}},
	}}})
	synctest.Test(t, func(t *testing.T) {
		w.pods = make(chan *v1.Pod)
		m.wake = make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.Run(ctx); close(done) }()
		if err := m.Mount(ctx, p); err != nil {
			t.Fatal(err)
		}
		want := func(i int, name, text string) {
			t.Helper()
			synctest.Wait()
			data, err := os.ReadFile(m.path(p, i, name))
			if err != nil || string(data) != text {
				t.Errorf("%s is %q, want %q (%v)", name, data, text, err)
			}
		}
		want(0, "k", "old")
		w.setConfig("cm", "k", "new")
		want(0, "k", "new")
		labelled := p.DeepCopy()
		labelled.Labels["a"] = "2"
		w.pods <- labelled
		want(1, "l", "2")
		want(1, "token", "t")
		time.Sleep(47 * time.Minute)
		want(1, "token", "t")
		time.Sleep(time.Minute + time.Second)
		want(1, "token", "tt")
		// What the API cannot answer leaves the volume as it is; what it denies is tried again.
		w.mu.Lock()
		w.down = apierrors.NewServiceUnavailable("down")
		w.mu.Unlock()
		w.changed["u1"]()
		want(0, "k", "new")
		w.mu.Lock()
		w.down = nil
		w.configMaps["cm"] = &v1.ConfigMap{Data: map[string]string{"k": "newer"}}
		w.mu.Unlock()
		time.Sleep(2 * outageRetry)
		want(0, "k", "newer")
		cancel()
		<-done
	})
}

// A pod that is deleted together with its namespace loses what its volumes show
// while its containers end: no reason to warn anybody.
func TestRefreshOfAnEndingPod(t *testing.T) {
	for name, c := range map[string]struct {
		deleted bool
		wants   int
	}{"staying": {false, 1}, "ending": {true, 0}} {
		w := newWorld()
		w.setConfig("cm", "k", "1")
		m, p := newManager(t, w, table{mount.NewFake()}), podWith(configMap("cm"))
		var told bytes.Buffer
		m.Log = slog.New(slog.NewTextHandler(&told, nil))
		synctest.Test(t, func(t *testing.T) {
			w.pods = make(chan *v1.Pod)
			m.wake = make(chan struct{}, 1)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { m.Run(ctx); close(done) }()
			if err := m.Mount(ctx, p); err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			delete(w.configMaps, "cm")
			w.mu.Unlock()
			w.changed["u1"]()
			synctest.Wait()
			if c.deleted { // which is heard of a little later
				now := metav1.Now()
				p = p.DeepCopy()
				p.DeletionTimestamp = &now
				w.pods <- p
			}
			time.Sleep(time.Hour)
			cancel()
			<-done
		})
		if n := strings.Count(told.String(), "volumes are not up to date"); n != c.wants {
			t.Errorf("%s: warned %d times, want %d: %s", name, n, c.wants, told.String())
		}
	}
}

func TestKeepsVolumesWhileAPIIsDown(t *testing.T) {
	w := newWorld()
	w.setConfig("cm", "k", "1")
	m, p := newManager(t, w, table{mount.NewFake()}), podWith(configMap("cm"))
	if err := m.Mount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	w.down = apierrors.NewServiceUnavailable("down")
	next := New(m.Config)
	if err := next.Mount(t.Context(), p); err != nil {
		t.Errorf("a volume that is there: %v", err)
	}
	p2 := podWith(configMap("cm"))
	p2.UID = "u2"
	if err := next.Mount(t.Context(), p2); err == nil {
		t.Error("a volume that was never set up counts as mounted")
	}
}

func TestRenewAfter(t *testing.T) {
	for _, tt := range []struct{ life, jitter, want time.Duration }{
		{time.Hour, 0, 48 * time.Minute},
		{time.Hour, 10 * time.Second, 48*time.Minute - 10*time.Second},
		{90 * 24 * time.Hour, 0, 24 * time.Hour},
		{10 * time.Second, 10 * time.Second, 7200 * time.Millisecond},
		{-time.Hour, 0, 0},
	} {
		if got := renewAfter(tt.life, tt.jitter); got != tt.want {
			t.Errorf("renewAfter(%v, %v) = %v, want %v", tt.life, tt.jitter, got, tt.want)
		}
	}
}

func TestCommonUser(t *testing.T) {
	user := func(n int64) *v1.SecurityContext { return &v1.SecurityContext{RunAsUser: &n} }
	one := int64(1)
	for name, tt := range map[string]struct {
		pod        *int64
		containers []*v1.SecurityContext
		want       *int64
	}{
		"none":    {containers: []*v1.SecurityContext{nil}},
		"all one": {containers: []*v1.SecurityContext{user(1), user(1)}, want: &one},
		"pod's":   {pod: &one, containers: []*v1.SecurityContext{nil, user(1)}, want: &one},
		"differ":  {pod: &one, containers: []*v1.SecurityContext{nil, user(2)}},
		"partial": {containers: []*v1.SecurityContext{user(1), nil}},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{RunAsUser: tt.pod}}}
		for _, sc := range tt.containers {
			p.Spec.Containers = append(p.Spec.Containers, v1.Container{SecurityContext: sc})
		}
		if diff := cmp.Diff(tt.want, commonUser(p)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
