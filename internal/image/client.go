package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Namespace is containerd's namespace of what the CRI sees.
const Namespace = "k8s.io"

// maxMessage bounds one answer of the runtime, whose list of images can be long.
const maxMessage = 16 << 20

// Image is an image that the runtime has.
type Image struct {
	// ID is the digest of its configuration, sha256:….
	ID string
	// Names are its names with tags, Digests those with a digest.
	Names   []string
	Digests []string
	// Size is what it takes on disk, in bytes.
	Size uint64
	// Pinned images are kept by the kubelet's garbage collection.
	Pinned bool
}

// Client manages the images of a runtime over its CRI socket; Import needs containerd.
type Client struct {
	conn       *grpc.ClientConn
	containerd *containerd.Client
	images     cri.ImageServiceClient
}

// reconnect is short: a socket on the same machine costs nothing to try.
var reconnect = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: time.Second}

// Dial returns a client of the runtime at endpoint, unix:///path or a path. It connects at the first
// call, and again whenever the runtime has restarted.
func Dial(endpoint string) (*Client, error) {
	socket := strings.TrimPrefix(endpoint, "unix://")
	if !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("the runtime endpoint %q is not of the form unix:///path", endpoint)
	}
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connecting to the runtime at %s: %w", endpoint, err)
	}
	c, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(Namespace))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the runtime at %s: %w", endpoint, err), conn.Close())
	}
	return &Client{conn: conn, containerd: c, images: cri.NewImageServiceClient(conn)}, nil
}

// WaitReady returns when the runtime answers, which may not have started yet.
func (c *Client) WaitReady(ctx context.Context) error {
	if _, err := c.images.ListImages(ctx, &cri.ListImagesRequest{}, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("waiting for the container runtime: %w", err)
	}
	return nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// List returns all images, sorted by their first names.
func (c *Client) List(ctx context.Context) ([]Image, error) {
	answer, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	list := make([]Image, 0, len(answer.Images))
	for _, i := range answer.Images {
		list = append(list, Image{ID: i.Id, Names: i.RepoTags, Digests: i.RepoDigests, Size: i.Size, Pinned: i.Pinned})
	}
	key := func(i Image) string { return strings.Join(append(slices.Clone(i.Names), i.ID), " ") }
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(key(a), key(b)) })
	return list, nil
}

// Has tells whether the runtime has an image of that name.
func (c *Client) Has(ctx context.Context, name string) (bool, error) {
	full, err := Name(name)
	if err != nil {
		return false, err
	}
	answer, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: full}})
	if err != nil {
		return false, fmt.Errorf("looking for the image %s: %w", full, err)
	}
	return answer.Image != nil, nil
}

// Remove removes an image, with all its names, by one of them or by its ID. An image that is not there
// gives fs.ErrNotExist.
func (c *Client) Remove(ctx context.Context, name string) error {
	spec := &cri.ImageSpec{Image: name}
	if !strings.HasPrefix(name, "sha256:") {
		full, err := Name(name)
		if err != nil {
			return err
		}
		spec.Image = full
	}
	answer, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
	if err == nil && answer.Image == nil {
		err = fs.ErrNotExist
	}
	if err == nil {
		_, err = c.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: spec})
	}
	if err != nil {
		return fmt.Errorf("removing the image %s: %w", name, err)
	}
	return nil
}

// Import brings the images of an archive (docker save or OCI layout; plain, gzip or zstd) into
// containerd, unpacks them, and returns the names by which the CRI then has them. Names are given to
// the archive's image in addition to its own; an archive without names needs one, and names can only
// be given to an archive with a single image.
func (c *Client) Import(ctx context.Context, archive string, names ...string) ([]string, error) {
	imported, err := c.importArchive(ctx, archive, names)
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", archive, err)
	}
	for _, name := range imported {
		if err := c.await(ctx, name); err != nil {
			return nil, fmt.Errorf("importing %s: %w", archive, err)
		}
	}
	return imported, nil
}

// unnamed is the prefix of the names that images without any bear during an import.
const unnamed = "import.skiff.dev/unnamed@"

func (c *Client) importArchive(ctx context.Context, archive string, names []string) ([]string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, err := compression.DecompressStream(f)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	ctx, done, err := c.containerd.WithLease(namespaces.WithNamespace(ctx, Namespace))
	if err != nil {
		return nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // a lease that stays expires by itself

	found, err := c.containerd.Import(ctx, plain,
		containerd.WithImageRefTranslator(func(ref string) string {
			if full, err := Name(ref); err == nil && strings.Contains(ref, "/") {
				return full
			}
			return "" // a bare tag, as some tools write into a layout, names nothing
		}),
		containerd.WithSkipDigestRef(func(name string) bool { return name != "" }),
		containerd.WithDigestRef(func(d digest.Digest) string { return unnamed + d.String() }))
	if err != nil {
		return nil, err
	}
	return c.name(ctx, found, names)
}

// name gives the imported images their names, drops the makeshift ones, and unpacks.
func (c *Client) name(ctx context.Context, found []images.Image, names []string) ([]string, error) {
	store := c.containerd.ImageService()
	targets := map[digest.Digest]images.Image{}
	final := map[string]images.Image{}
	for _, i := range found {
		targets[i.Target.Digest] = i
		if !strings.HasPrefix(i.Name, unnamed) {
			final[i.Name] = i
			continue
		}
		if err := store.Delete(ctx, i.Name); err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	if len(names) > 0 && len(targets) != 1 {
		return nil, fmt.Errorf("a name can be given to a single image, and the archive has %d", len(targets))
	}
	for _, n := range names {
		full, err := Name(n)
		if err != nil {
			return nil, err
		}
		for _, i := range targets {
			i.Name, i.Labels = full, nil
			if _, err = store.Create(ctx, i); errdefs.IsAlreadyExists(err) {
				_, err = store.Update(ctx, i, "target")
			}
			if err != nil {
				return nil, err
			}
			final[full] = i
		}
	}
	if len(final) == 0 {
		return nil, errors.New("the archive's image has no name, and none was given")
	}
	for _, i := range final {
		if err := containerd.NewImage(c.containerd, i).Unpack(ctx, ""); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", i.Name, err)
		}
	}
	return slices.Sorted(maps.Keys(final)), nil
}

// await returns when the CRI has taken note of an image. It does so on an event of containerd's a few
// milliseconds later, and says nothing when it has, hence the question is repeated.
func (c *Client) await(ctx context.Context, name string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if has, err := c.Has(ctx, name); err != nil || has {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the CRI to take note of %s: %w", name, ctx.Err())
		}
	}
}

// SetSnapshotter sets where images of the CRI's namespace are unpacked unless something else is asked for.
func (c *Client) SetSnapshotter(ctx context.Context, name string) error {
	const label = "containerd.io/defaults/snapshotter"
	spaces := c.containerd.NamespaceService()
	err := spaces.Create(ctx, Namespace, map[string]string{label: name})
	if errdefs.IsAlreadyExists(err) {
		err = spaces.SetLabel(ctx, Namespace, label, name)
	}
	if err != nil {
		return fmt.Errorf("setting the snapshotter: %w", err)
	}
	return nil
}
