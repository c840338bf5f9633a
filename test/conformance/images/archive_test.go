package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// sample is a tree with one file of each kind.
func sample(t *testing.T) tree {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := tree{}
	s.text("etc/motd", "hello\n", 0o644)
	s.dir("tmp", 0o1777)
	s.link("bin/sh", "/bin/bash")
	s.own("etc/motd", 1, 2)
	if err := s.copy("/usr/bin/program", program); err != nil {
		t.Fatal(err)
	}
	return s
}

// contents reads a layer as "mode uid:gid name -> link: data" lines.
func contents(t *testing.T, l v1.Layer) []string {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []string
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		line := h.FileInfo().Mode().String() + " " + h.Name
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if h.Uid+h.Gid != 0 {
			line += " owned"
		}
		if len(data) > 0 {
			line += ": " + strings.TrimSpace(string(data))
		}
		all = append(all, line)
	}
}

func TestLayerHoldsTheTree(t *testing.T) {
	s := sample(t)
	layer, err := s.layer()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"drwxr-xr-x bin/", "Lrwxrwxrwx bin/sh -> /bin/bash", "drwxr-xr-x etc/", "-rw-r--r-- etc/motd owned: hello",
		"dtrwxrwxrwx tmp/", "drwxr-xr-x usr/", "drwxr-xr-x usr/bin/", "-rwxr-xr-x usr/bin/program: #!/bin/sh",
	}
	if diff := cmp.Diff(want, contents(t, layer)); diff != "" {
		t.Errorf("the layer (-want +got):\n%s", diff)
	}
	again, err := s.layer()
	if err != nil {
		t.Fatal(err)
	}
	first, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := again.Digest(); err != nil || second != first {
		t.Errorf("the same tree has the digests %v and %v (%v)", first, second, err)
	}
}

func TestVersionsOfOneContentDiffer(t *testing.T) {
	ids := map[v1.Hash]bool{}
	for _, version := range []string{"1", "2"} {
		image, err := assemble(v1.Config{Cmd: []string{"sh"}}, version, sample(t))
		if err != nil {
			t.Fatal(err)
		}
		id, err := image.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = true
	}
	if len(ids) != 2 {
		t.Error("a runtime would take two versions for one image")
	}
}

// archives writes two archives that share a layer and returns their folder.
func archives(t *testing.T) (dir string, images map[string]v1.Image) {
	t.Helper()
	dir = t.TempDir()
	images = map[string]v1.Image{}
	for _, n := range []string{"registry.k8s.io/a/one:1", "registry.k8s.io/a/one:2", "docker.io/library/two:1"} {
		image, err := assemble(v1.Config{Cmd: []string{n}}, tag(n), sample(t))
		if err != nil {
			t.Fatal(err)
		}
		images[n] = image
	}
	for file, names := range map[string][]string{
		"one.tar": {"registry.k8s.io/a/one:1", "registry.k8s.io/a/one:2"}, "two.tar": {"docker.io/library/two:1"},
	} {
		var list []v1.Image
		for _, n := range names {
			list = append(list, images[n])
		}
		size, err := writeArchive(filepath.Join(dir, file), names, list)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Size() != size {
			t.Errorf("%s: said to have %d bytes: %v, %v", file, size, info, err)
		}
	}
	return dir, images
}

func TestArchiveKeepsASharedLayerOnce(t *testing.T) {
	dir, _ := archives(t)
	data, err := os.ReadFile(filepath.Join(dir, "one.tar"))
	if err != nil {
		t.Fatal(err)
	}
	blobs := 0
	for in := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "blobs/") {
			blobs++
		}
	}
	if blobs != 5 {
		t.Errorf("two images of one layer have %d blobs, want 5: the layer, two configurations, two manifests", blobs)
	}
}

func TestRegistryServesArchives(t *testing.T) {
	dir, images := archives(t)
	r, err := OpenRegistry(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	server := httptest.NewServer(r)
	defer server.Close()
	get := func(path string) ([]byte, string) {
		t.Helper()
		answer, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		data, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %s, %v", path, answer.Status, err)
		}
		return data, answer.Header.Get("Content-Type")
	}
	for full, image := range images {
		host, rest, _ := strings.Cut(full, "/")
		path, version, _ := strings.Cut(rest, ":")
		for _, query := range []string{"", "?ns=" + host} {
			got, mediaType := get("/v2/" + path + "/manifests/" + version + query)
			want, err := image.RawManifest()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) || mediaType != string(types.OCIManifestSchema1) {
				t.Errorf("%s%s: the manifest is %s of the type %s", full, query, got, mediaType)
			}
		}
		err := eachBlob(image, func(digest v1.Hash, want []byte) error {
			if got, _ := get("/v2/" + path + "/blobs/" + digest.String()); !bytes.Equal(got, want) {
				return fmt.Errorf("the blob %s came damaged", digest)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", full, err)
		}
	}
}

func TestRegistryRefuses(t *testing.T) {
	dir, _ := archives(t)
	r, err := OpenRegistry(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/v2/", 200},
		{http.MethodHead, "/v2/a/one/manifests/1?ns=registry.k8s.io", 200},
		{http.MethodGet, "/v2/a/one/manifests/1?ns=docker.io", 404},
		{http.MethodGet, "/v2/a/one/manifests/3", 404},
		{http.MethodGet, "/v2/a/one/blobs/sha256:00", 404},
		{http.MethodGet, "/v2/a/one", 404},
		{http.MethodGet, "/", 404},
		{http.MethodPut, "/v2/a/one/manifests/1", 405},
	} {
		answer := httptest.NewRecorder()
		r.ServeHTTP(answer, httptest.NewRequest(c.method, c.path, nil))
		if answer.Code != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, answer.Code, c.status)
		}
	}
	if _, err := OpenRegistry(t.TempDir()); err == nil || !strings.Contains(err.Error(), "make images") {
		t.Errorf("an empty folder: %v", err)
	}
}
