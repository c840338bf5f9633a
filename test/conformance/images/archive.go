package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// standIn is the label of every image made here.
const standIn = "dev.skiff.stand-in"

// assemble makes an image of layers. The version lands in a label: images of one content and two versions
// must differ, or a runtime takes them for one image with two names.
func assemble(config v1.Config, version string, trees ...tree) (v1.Image, error) {
	layers := make([]v1.Layer, 0, len(trees))
	for _, t := range trees {
		l, err := t.layer()
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return assembleLayers(config, version, layers...)
}

func assembleLayers(config v1.Config, version string, layers ...v1.Layer) (v1.Image, error) {
	if config.Env == nil {
		config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	config.Labels = map[string]string{standIn: "true", "org.opencontainers.image.version": version}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		var err error
		image, err = mutate.Append(image, mutate.Addendum{
			Layer: l, MediaType: types.OCIUncompressedLayer, History: v1.History{CreatedBy: "make images"},
		})
		if err != nil {
			return nil, err
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(image, file)
}

// archiveWriter writes an OCI image layout into a tar file, each blob once.
type archiveWriter struct {
	out  *tar.Writer
	seen map[v1.Hash]bool
}

// writeArchive writes images under their names and returns the file's size. The file appears whole or not
// at all.
func writeArchive(file string, names []string, images []v1.Image) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".writing-")
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), file)
		} else {
			os.Remove(f.Name()) // the error that brought us here says more
		}
	}()
	w := archiveWriter{tar.NewWriter(f), map[v1.Hash]bool{}}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for i, image := range images {
		d, err := w.image(image)
		if err != nil {
			return 0, fmt.Errorf("writing %s: %w", names[i], err)
		}
		d.Annotations = map[string]string{"io.containerd.image.name": names[i], "org.opencontainers.image.ref.name": names[i]}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return 0, err
	}
	if err := w.file("index.json", data); err != nil {
		return 0, err
	}
	if err := w.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return 0, err
	}
	if err := w.out.Close(); err != nil {
		return 0, err
	}
	if err := f.Chmod(0o644); err != nil {
		return 0, err
	}
	return f.Seek(0, io.SeekCurrent)
}

// image writes the blobs of an image and returns its descriptor.
func (w archiveWriter) image(image v1.Image) (v1.Descriptor, error) {
	if err := eachBlob(image, w.blob); err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	digest, err := image.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: digest,
		Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
	}, w.blob(digest, manifest)
}

// eachBlob visits an image's layers and its configuration.
func eachBlob(image v1.Image, visit func(v1.Hash, []byte) error) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return err
		}
		content, err := l.Compressed() // as it is kept: ours are not compressed
		if err != nil {
			return err
		}
		data, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
		if err := visit(digest, data); err != nil {
			return err
		}
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	name, err := image.ConfigName()
	if err != nil {
		return err
	}
	return visit(name, config)
}

func (w archiveWriter) blob(digest v1.Hash, data []byte) error {
	if w.seen[digest] {
		return nil
	}
	w.seen[digest] = true
	return w.file("blobs/"+digest.Algorithm+"/"+digest.Hex, data)
}

func (w archiveWriter) file(name string, data []byte) error {
	err := w.out.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatPAX,
	})
	if err != nil {
		return err
	}
	_, err = w.out.Write(data)
	return err
}
