package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// contents lists the files of an image's single layer.
func contents(t *testing.T, image v1.Image) []string {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers %d, error %v", len(layers), err)
	}
	plain, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var list []string
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(content) > 20 {
			content = fmt.Appendf(nil, "%d bytes", len(content))
		}
		list = append(list, strings.TrimSpace(fmt.Sprintf("%c %o %d:%d %s %s %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname, content)))
	}
}

func write(t *testing.T, file, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestBuildSources(t *testing.T) {
	dir := t.TempDir()
	site := filepath.Join(dir, "site")
	write(t, filepath.Join(site, "index.html"), "<h1>", 0o644)
	write(t, filepath.Join(site, "bin", "run"), "#!/x", 0o755)
	if err := os.Symlink("index.html", filepath.Join(site, "home")); err != nil {
		t.Fatal(err)
	}
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "./etc/app.conf", Mode: 0o600, Uid: 7, Gid: 8, Size: 3},
		{Typeflag: tar.TypeLink, Name: "a-link", Linkname: "./etc/app.conf", Mode: 0o600},
		{Typeflag: tar.TypeReg, Name: "../../escape", Mode: 0o644},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			fmt.Fprint(w, "a=b")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "files.tar")
	write(t, archive, buffer.String(), 0o644)

	image, err := Build(Spec{
		Sources: []Source{
			{Dir: site, Target: "/srv"},
			{Tarball: archive},
			{Data: []byte("later"), Target: "/srv/index.html"},
		},
		WorkDir: "/var/work",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"5 755 0:0 etc/",
		"0 600 7:8 etc/app.conf  a=b",
		"0 644 0:0 escape",
		"5 755 0:0 srv/",
		"5 755 0:0 srv/bin/",
		"0 755 0:0 srv/bin/run  #!/x",
		"2 777 0:0 srv/home index.html",
		"0 644 0:0 srv/index.html  later",
		"5 755 0:0 var/",
		"5 755 0:0 var/work/",
		"1 600 0:0 a-link etc/app.conf",
	}
	got := contents(t, image)
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if last := got[len(got)-1]; !strings.HasPrefix(last, "1 ") {
		t.Errorf("the hard link is not last: %s", last)
	}
}

func sorted(s []string) map[string]bool {
	set := map[string]bool{}
	for _, v := range s {
		set[v] = true
	}
	return set
}

// TestBuildIsDeterministic builds from two copies of the same files, made at different times and in
// different order.
func TestBuildIsDeterministic(t *testing.T) {
	names := []string{"b", "a", "d/c", "d/a"}
	build := func(reverse bool) v1.Hash {
		dir := t.TempDir()
		for i := range names {
			if reverse {
				i = len(names) - 1 - i
			}
			write(t, filepath.Join(dir, names[i]), names[i], 0o644)
		}
		image, err := Build(Spec{
			Sources:    []Source{{Dir: dir}},
			Entrypoint: []string{"/a"}, Labels: map[string]string{"x": "1", "y": "2"}, Ports: []string{"80", "53/udp"},
		})
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	if a, b := build(false), build(true); a != b {
		t.Errorf("digests differ: %s and %s", a, b)
	}
}

func TestBuildConfig(t *testing.T) {
	image, err := Build(Spec{
		Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, Env: []string{"A=b=c"}, WorkDir: "/w", User: "1000:1000",
		Ports: []string{"80", "53/udp"}, Volumes: []string{"/data/"}, StopSignal: "SIGINT", Labels: map[string]string{"l": "v"},
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, WorkingDir: "/w", User: "1000:1000",
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b=c"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}},
		Volumes:      map[string]struct{}{"/data": {}},
		StopSignal:   "SIGINT", Labels: map[string]string{"l": "v"},
	}
	if diff := cmp.Diff(want, file.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if file.OS != "linux" || file.Architecture == "" {
		t.Errorf("platform %s/%s", file.OS, file.Architecture)
	}
}

func TestBuildRefuses(t *testing.T) {
	for what, spec := range map[string]Spec{
		"no source":         {Sources: []Source{{}}},
		"two sources":       {Sources: []Source{{Dir: "/", Data: []byte("x")}}},
		"relative target":   {Sources: []Source{{Data: []byte("x"), Target: "x"}}},
		"data for the root": {Sources: []Source{{Data: []byte("x"), Target: "/"}}},
		"missing directory": {Sources: []Source{{Dir: "/does/not/exist"}}},
		"missing program":   {Sources: []Source{{Binary: "/does/not/exist"}}},
		"missing tarball":   {Sources: []Source{{Tarball: "/does/not/exist"}}},
		"relative workdir":  {WorkDir: "w"},
		"env without =":     {Env: []string{"A"}},
		"port 0":            {Ports: []string{"0"}},
		"port of a kind":    {Ports: []string{"80/icmp"}},
		"port too large":    {Ports: []string{"99999999999999999999"}},
		"relative volume":   {Volumes: []string{"v"}},
	} {
		if _, err := Build(spec); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestBuildDynamicBinary takes a program of this machine and looks for what its interpreter needs.
func TestBuildDynamicBinary(t *testing.T) {
	program := "/bin/sh"
	interpreter, err := interpreterOf(program)
	if err != nil || interpreter == "" {
		t.Skipf("SKIPPED: %s is not a dynamically linked ELF program: %v", program, err)
	}
	image, err := Build(Spec{Sources: []Source{{Binary: program, Target: "/sh"}}})
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Join(contents(t, image), "\n")
	for _, name := range []string{" sh ", " " + strings.TrimPrefix(interpreter, "/") + " ", "/libc.so."} {
		if !strings.Contains(list, name) {
			t.Errorf("the image has no %q:\n%s", name, list)
		}
	}
}

func TestWrite(t *testing.T) {
	image, err := Build(Spec{Sources: []Source{{Data: []byte("x"), Target: "/x"}}})
	if err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := WriteLayout(filepath.Join(dir, "layout"), image, "a:v1"); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != want ||
		manifest.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/library/a:v1" {
		t.Errorf("layout: %+v", manifest.Manifests)
	}
	var archive bytes.Buffer
	if err := WriteArchive(&archive, image, "a:v1", "registry.example/bb"); err != nil {
		t.Fatal(err)
	}
	saved, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	if len(saved) != 1 || !cmp.Equal(sorted(saved[0].RepoTags), sorted([]string{"docker.io/library/a:v1", "registry.example/bb:latest"})) {
		t.Errorf("archive: %+v", saved)
	}
	if err := WriteArchive(io.Discard, image); err == nil {
		t.Error("an archive without a name was written")
	}
	if err := WriteArchive(io.Discard, image, "Not A Name"); err == nil {
		t.Error("a malformed name was accepted")
	}
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"redis": "docker.io/library/redis:latest", "me/app:v1": "docker.io/me/app:v1",
		"localhost:5000/a": "localhost:5000/a:latest", "Bad": "", "": "",
	} {
		if got, err := Name(in); got != want || (err == nil) != (want != "") {
			t.Errorf("Name(%q) = %q, %v", in, got, err)
		}
	}
}
