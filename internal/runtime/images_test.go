package runtime

import (
	"archive/tar"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"skiff.dev/skiff/internal/image"
)

// archive writes an image that holds one file with the given text.
func (n *node) archive(file, text string, names ...string) {
	n.Helper()
	img, err := image.Build(image.Spec{Sources: []image.Source{{Data: []byte(text), Target: "/text"}}})
	n.ok(err)
	f, err := os.Create(file)
	n.ok(err)
	n.ok(errors.Join(image.WriteArchive(f, img, names...), f.Close()))
}

func (n *node) names() []string {
	n.Helper()
	list, err := n.rt.Images().List(n.Context())
	n.ok(err)
	var names []string
	for _, i := range list {
		names = append(names, i.Names...)
	}
	slices.Sort(names)
	return names
}

func (n *node) has(want ...string) {
	n.Helper()
	want = append(want, DefaultSandboxImage)
	slices.Sort(want)
	if got := n.names(); !slices.Equal(got, want) {
		n.Errorf("images %q, want %q", got, want)
	}
}

func TestImages(t *testing.T) {
	n := newNode(t)
	n.has()
	ctx := t.Context()
	images := n.rt.Images()

	both := filepath.Join(n.dir, "both.tar")
	n.archive(both, "1", "example.org/one:v1", "two")
	_, err := images.Import(ctx, both, "example.org/three:v1")
	n.ok(err)
	n.has("example.org/one:v1", "docker.io/library/two:latest", "example.org/three:v1")
	n.ok(images.Remove(ctx, "two"))
	n.has()
	if err := images.Remove(ctx, "two"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removing a missing image: %v", err)
	}

	// A layout whose image has no name, as a tarball.
	img, err := image.Build(image.Spec{Sources: []image.Source{{Data: []byte("2"), Target: "/text"}}})
	n.ok(err)
	dir := filepath.Join(n.dir, "layout")
	n.ok(image.WriteLayout(dir, img))
	f, err := os.Create(dir + ".tar")
	n.ok(err)
	w := tar.NewWriter(f)
	n.ok(errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close()))
	if _, err := images.Import(ctx, dir+".tar"); err == nil {
		t.Error("an image without a name was imported")
	}
	_, err = images.Import(ctx, dir+".tar", "named")
	n.ok(err)
	n.has("docker.io/library/named:latest")
	if _, err := images.Import(ctx, filepath.Join(n.dir, "missing.tar")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("importing a missing file: %v", err)
	}

	// The images folder: imported at start, once, and not stopped by what is no image.
	n.archive(filepath.Join(n.rt.layout.images, "air.tar"), "3", "air:v1")
	n.ok(os.WriteFile(filepath.Join(n.rt.layout.images, "bad.tar"), []byte("no tarball"), 0o600))
	n.ok(n.rt.Stop(context.Background()))
	n.start()
	n.has("docker.io/library/named:latest", "docker.io/library/air:v1")
	record := filepath.Join(n.rt.layout.data, "images.json")
	again, err := n.rt.Images().ImportDir(ctx, n.rt.layout.images, record)
	if len(again) != 0 || err == nil {
		t.Errorf("imported %q again, error %v; want the one of bad.tar", again, err)
	}
	n.ok(n.rt.Images().Remove(ctx, "air:v1"))
	if again, _ = n.rt.Images().ImportDir(ctx, n.rt.layout.images, record); !slices.Equal(again, []string{"air.tar"}) {
		t.Errorf("imported %q after the image was removed, want air.tar", again)
	}
}
