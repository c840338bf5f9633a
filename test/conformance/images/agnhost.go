package images

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	suite "k8s.io/kubernetes/test/utils/image"
)

// agnhostTools are Debian's programs in agnhost besides busybox's: those that its original names.
var agnhostTools = []string{
	"/usr/bin/dig", "/usr/bin/delv", "/usr/bin/host", "/usr/bin/nslookup", "/usr/bin/curl", "/usr/bin/getent",
	"/usr/bin/iperf", "/usr/bin/socat", "/usr/bin/ipcs", "/usr/bin/ipcmk", "/usr/bin/ipcrm", "/usr/bin/nsenter",
	"/usr/bin/unshare", "/bin/ip", "/bin/ss", "/sbin/bridge", "/sbin/tc",
}

// makeAgnhost makes the suite's own image in its two versions, and the two that serve a picture with it.
func makeAgnhost(ctx context.Context, w *workshop) ([]v1.Image, error) {
	base, err := w.agnhostBase(ctx)
	if err != nil {
		return nil, err
	}
	config := v1.Config{
		Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, WorkingDir: "/",
		ExposedPorts: ports("80/tcp", "8080/tcp", "8081/tcp", "9376/tcp", "5000/tcp"),
	}
	var made []v1.Image
	var current []v1.Layer
	for _, id := range []suite.ImageID{suite.Agnhost, suite.AgnhostPrev} {
		version := tag(suite.GetE2EImage(id))
		program, err := w.agnhostProgram(ctx, version)
		if err != nil {
			return nil, err
		}
		layers := append(slices.Clone(base), program)
		if id == suite.Agnhost {
			current = layers
		}
		made, err = appendImage(made, config, version, layers...)
		if err != nil {
			return nil, err
		}
	}
	config.Cmd = []string{"test-webserver"}
	for _, id := range []suite.ImageID{suite.Kitten, suite.Nautilus} {
		name := suite.GetE2EImage(id)
		pictures, err := pictureTree(strings.TrimSuffix(path.Base(name), ":"+tag(name)) + ".jpg")
		if err != nil {
			return nil, err
		}
		layer, err := pictures.layer()
		if err != nil {
			return nil, err
		}
		made, err = appendImage(made, config, tag(name), append(slices.Clone(current), layer)...)
		if err != nil {
			return nil, err
		}
	}
	return made, nil
}

func appendImage(made []v1.Image, config v1.Config, version string, layers ...v1.Layer) ([]v1.Image, error) {
	image, err := assembleLayers(config, version, layers...)
	return append(made, image), err
}

// agnhostBase are the layers below agnhost's program.
func (w *workshop) agnhostBase(ctx context.Context) ([]v1.Layer, error) {
	tools, root, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	if err := root.install(tools, agnhostTools...); err != nil {
		return nil, err
	}
	if err := root.installAs(tools, "/bin/nc.openbsd", "/usr/bin/nc"); err != nil {
		return nil, err
	}
	delete(tools, "bin/nc")           // busybox's, which would be found first
	tools.link("bin/sh", "/bin/bash") // busybox's shell would run its own nc, whatever stands in the PATH
	tools.link("usr/local/bin/iperf", "/usr/bin/iperf")
	tools.dirs("uploads", "home/user-defined-in-image")
	tools.own("home/user-defined-in-image", 1000, 1000)
	// A spec looks for the groups that the image gives this user.
	tools.account("etc/passwd", "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh")
	tools.account("etc/group", "user-defined-in-image:x:1000:")
	tools.account("etc/group", "group-defined-in-image:x:50000:user-defined-in-image")
	if err := w.agnhostFiles(ctx, tools); err != nil {
		return nil, err
	}
	dns, err := w.coreDNS(ctx)
	if err != nil {
		return nil, err
	}
	below, err := tools.layer()
	if err != nil {
		return nil, err
	}
	above, err := dns.layer()
	if err != nil {
		return nil, err
	}
	return []v1.Layer{below, above}, nil
}

// agnhostFiles adds what agnhost's commands serve: porter's certificate and a registry with one image.
func (w *workshop) agnhostFiles(ctx context.Context, t tree) error {
	find := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	find.Dir = w.source
	dir, err := output(find)
	if err != nil {
		return err
	}
	porter := filepath.Join(strings.TrimSpace(string(dir)), "test", "images", "agnhost", "porter")
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		if err := t.copy(name, filepath.Join(porter, name)); err != nil {
			return err
		}
	}
	pause, err := makePause(ctx, w)
	if err != nil {
		return err
	}
	return t.registry("var/registry/pause", "testing", pause[0])
}

// registry adds an image in the layout that agnhost's fake-registry-server reads: a tag file names the
// digest of an index, and whatever has a digest lies at sha256/<its first two digits>/<the digest>/data.
func (t tree) registry(dir, tag string, image v1.Image) error {
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}},
	})
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	t.text(path.Join(dir, "manifests", tag), digest.String()+"\n", 0o644)
	put := func(kind string, digest v1.Hash, data []byte) {
		t.text(path.Join(dir, kind, digest.Algorithm, digest.Hex[:2], digest.Hex, "data"), string(data), 0o644)
	}
	data, err := index.RawManifest()
	if err != nil {
		return err
	}
	put("manifests", digest, data)
	if digest, err = image.Digest(); err != nil {
		return err
	}
	if data, err = image.RawManifest(); err != nil {
		return err
	}
	put("manifests", digest, data)
	return eachBlob(image, func(digest v1.Hash, data []byte) error {
		put("blobs", digest, data)
		return nil
	})
}

// agnhostProgram is the layer of the program, which says its version.
func (w *workshop) agnhostProgram(ctx context.Context, version string) (v1.Layer, error) {
	file, err := w.build(ctx, program{
		name: "agnhost-" + version, pkg: "k8s.io/kubernetes/test/images/agnhost", set: []string{"main.Version=" + version},
	})
	if err != nil {
		return nil, err
	}
	t := tree{}
	if err := t.copy("agnhost", file); err != nil {
		return nil, err
	}
	t.link("agnhost-2", "agnhost")
	return t.layer()
}

// pictureTree is a picture, and the page that names it. It is of one colour; specs look at the name.
func pictureTree(name string) (tree, error) {
	square := image.NewRGBA(image.Rect(0, 0, 64, 64))
	draw.Draw(square, square.Bounds(), image.NewUniform(color.RGBA{R: 0x32, G: 0x6c, B: 0xe5, A: 0xff}), image.Point{}, draw.Src)
	var packed bytes.Buffer
	if err := jpeg.Encode(&packed, square, nil); err != nil {
		return nil, err
	}
	page, err := json.MarshalIndent(map[string]string{"image": name}, "", "  ")
	if err != nil {
		return nil, err
	}
	t := tree{}
	t.text(name, packed.String(), 0o644)
	t.text("data.json", string(page)+"\n", 0o644)
	return t, nil
}
