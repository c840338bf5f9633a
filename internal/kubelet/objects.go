package kubelet

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/watchcache"
)

// objects reads what pods refer to. ConfigMaps and Secrets are read one by one
// when a container needs them, as a node may read only those of its pods;
// Services and the node itself are followed.
type objects struct {
	client   *client.Client
	layout   layout.Layout
	nodeName string
	services client.Cache[*v1.Service]
	nodes    client.Cache[*v1.Node]
}

func newObjects(c *client.Client, l layout.Layout, node string) *objects {
	return &objects{client: c, layout: l, nodeName: node}
}

// open starts following. It does not wait for the API.
func (o *objects) open(ctx context.Context) error {
	var err error
	if o.services, err = client.For[*v1.Service](o.client).Cache(ctx); err != nil {
		return err
	}
	scope := watchcache.Scope{Name: o.nodeName}
	o.nodes, err = client.For[*v1.Node](o.client).CacheWhere(ctx, scope)
	return err
}

func (o *objects) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	return client.For[*v1.ConfigMap](o.client).Get(ctx, namespace, name)
}

func (o *objects) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	return client.For[*v1.Secret](o.client).Get(ctx, namespace, name)
}

func (o *objects) Services(ctx context.Context, namespace string) ([]*v1.Service, error) {
	if err := o.services.Sync(ctx); err != nil {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars: %w", err)
	}
	var out []*v1.Service
	for s := range o.services.All(namespace) {
		out = append(out, s)
	}
	return out, nil
}

// maxEnvFile bounds what is read of an env file; more is refused by the reader.
const maxEnvFile = 64<<10 + 1

// File reads a file of a mounted volume. The volume's directory is opened as a
// root, so that no link in it leads out of it.
func (o *objects) File(pod *v1.Pod, volume, path string) ([]byte, error) {
	dirs, err := filepath.Glob(filepath.Join(o.layout.VolumesDir(pod.UID), "*", volume))
	if err != nil || len(dirs) != 1 {
		return nil, fmt.Errorf("volume %s is not mounted", volume)
	}
	root, err := os.OpenRoot(dirs[0])
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxEnvFile))
}

// Handler returns the runtime handler that a RuntimeClass names.
func (o *objects) Handler(ctx context.Context, class string) (string, error) {
	rc, err := client.For[*nodev1.RuntimeClass](o.client).Get(ctx, "", class)
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("failed to get sandbox runtime: no runtime class %q", class)
	}
	if err != nil {
		return "", fmt.Errorf("failed to get sandbox runtime: %w", err)
	}
	return rc.Handler, nil
}

// node returns the node's own object, as far as it is known.
func (o *objects) node() (*v1.Node, bool) {
	select {
	case <-o.nodes.Table().Ready():
		return o.nodes.Get("", o.nodeName)
	default:
		return nil, false
	}
}
