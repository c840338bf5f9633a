// Package image makes container images without a registry, a daemon or a Dockerfile (from a directory,
// a program with its shared libraries, a tarball or bytes), and brings images into containerd, lists
// and removes them as the CRI does.
//
// Build reads the files that the specification names and writes nothing; WriteArchive and WriteLayout
// write what they are told to. Client talks to a CRI socket.
package image

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what is in an image and how it is run.
type Spec struct {
	// Sources are put into the image in order; a later one replaces what it shares with an earlier one.
	Sources []Source
	// Entrypoint, Cmd, Env ("NAME=value"), WorkDir and User are those of the image configuration. The
	// working directory is made when no source has it. User is a name (then a source must hold an
	// /etc/passwd) or "uid[:gid]".
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkDir    string
	User       string
	// Ports are the exposed ports, "80" or "53/udp".
	Ports []string
	// Volumes are the paths for which a container gets a volume of its own.
	Volumes []string
	// StopSignal is sent to end the container, SIGTERM when empty.
	StopSignal string
	Labels     map[string]string
}

// Source is one part of an image's files; exactly one of Dir, Binary, Tarball and Data is set.
type Source struct {
	// Dir is a directory whose content lands at Target, "/" when empty. Owners become root's.
	Dir string
	// Binary is a program that lands at Target, /<its name> when empty. The shared libraries it names
	// and its interpreter come along; what it loads by itself at run time does not.
	Binary string
	// Tarball is a tar file (plain, gzip or zstd) unpacked at Target, with the owners it names.
	Tarball string
	// Data is the content of a file at Target.
	Data []byte
	// Target is an absolute path in the image.
	Target string
	// Mode is the permission of Data's file, 0644 when 0.
	Mode int64
}

// Build makes the image. The same files and specification give the same digest: entries are sorted,
// and times are the epoch's.
func Build(spec Spec) (v1.Image, error) {
	files := tree{}
	for _, s := range spec.Sources {
		if err := files.add(s); err != nil {
			return nil, fmt.Errorf("building the image: %w", err)
		}
	}
	if spec.WorkDir != "" {
		if !path.IsAbs(spec.WorkDir) {
			return nil, fmt.Errorf("building the image: the working directory %q is not an absolute path", spec.WorkDir)
		}
		if _, ok := files[entryName(spec.WorkDir)]; !ok {
			files.directory(entryName(spec.WorkDir))
		}
	}
	config, err := spec.config()
	if err != nil {
		return nil, fmt.Errorf("building the image: %w", err)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if len(files) > 0 {
		layer, err := tarball.LayerFromOpener(files.open, tarball.WithMediaType(types.OCILayer),
			tarball.WithCompressionLevel(gzip.BestSpeed))
		if err != nil {
			return nil, fmt.Errorf("building the image: %w", err)
		}
		if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "skiff image build"}}); err != nil {
			return nil, fmt.Errorf("building the image: %w", err)
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("building the image: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", goruntime.GOARCH, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return nil, fmt.Errorf("building the image: %w", err)
	}
	return image, nil
}

// config is the image configuration of the specification.
func (s Spec) config() (v1.Config, error) {
	c := v1.Config{
		Entrypoint: s.Entrypoint, Cmd: s.Cmd, Env: s.Env, WorkingDir: s.WorkDir, User: s.User,
		Labels: s.Labels, StopSignal: s.StopSignal,
	}
	for _, kv := range s.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return c, fmt.Errorf("environment variable %q is not of the form NAME=value", kv)
		}
	}
	if !slices.ContainsFunc(s.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		c.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.Env...)
	}
	for _, p := range s.Ports {
		port, protocol, found := strings.Cut(p, "/")
		if !found {
			protocol = "tcp"
		}
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) || !isPort(port) {
			return c, fmt.Errorf("port %q is not of the form 80 or 53/udp", p)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		c.ExposedPorts[port+"/"+protocol] = struct{}{}
	}
	for _, v := range s.Volumes {
		if !path.IsAbs(v) {
			return c, fmt.Errorf("volume %q is not an absolute path", v)
		}
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[path.Clean(v)] = struct{}{}
	}
	return c, nil
}

func isPort(s string) bool {
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' || n > 65535 {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n >= 1 && n <= 65535
}

// Name completes an image's name as container tools do: "redis" is docker.io/library/redis:latest.
func Name(s string) (string, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", s, err)
	}
	return named.String(), nil
}

// WriteArchive writes the image as a tarball that docker load, podman load, ctr and Client.Import read.
func WriteArchive(w io.Writer, image v1.Image, names ...string) error {
	if len(names) == 0 {
		return errors.New("writing the image: it needs a name")
	}
	tags := map[name.Tag]v1.Image{}
	for _, n := range names {
		full, err := Name(n)
		if err != nil {
			return err
		}
		tag, err := name.NewTag(full)
		if err != nil {
			return fmt.Errorf("image name %q: %w", n, err)
		}
		tags[tag] = image
	}
	if err := tarball.MultiWrite(tags, w); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	return nil
}

// WriteLayout writes the image as an OCI image layout into a directory, which is made.
func WriteLayout(dir string, image v1.Image, names ...string) error {
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("writing the image layout: %w", err)
	}
	for _, n := range names {
		full, err := Name(n)
		if err != nil {
			return err
		}
		err = at.AppendImage(image, layout.WithAnnotations(map[string]string{
			"org.opencontainers.image.ref.name": full, "io.containerd.image.name": full,
		}))
		if err != nil {
			return fmt.Errorf("writing the image layout: %w", err)
		}
	}
	if len(names) == 0 {
		if err := at.AppendImage(image); err != nil {
			return fmt.Errorf("writing the image layout: %w", err)
		}
	}
	return nil
}

// open returns the tree as a tar stream.
func (t tree) open() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(t.write(w)) }() // ends when the reader is drained or closed
	return r, nil
}

// write writes the tree: directories before what is in them, and hard links after their targets.
func (t tree) write(w io.Writer) error {
	out := tar.NewWriter(w)
	names := make([]string, 0, len(t))
	for n := range t {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if la, lb := t[a].header.Typeflag == tar.TypeLink, t[b].header.Typeflag == tar.TypeLink; la != lb {
			if la {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	for _, n := range names {
		if err := t[n].write(out); err != nil {
			return fmt.Errorf("writing %s: %w", n, err)
		}
	}
	return out.Close()
}
