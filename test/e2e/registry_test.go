//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

const user, password = "reader", "of-images"

// TestRegistry pulls images from a registry on the node, open and closed.
func TestRegistry(t *testing.T) {
	m := machine.NewSwitch(t).New(t)
	c := cluster.Start(t, m)
	var pulls atomic.Int64
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	serve(t, m, "127.0.0.1:5000", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			pulls.Add(1)
		}
		content.ServeHTTP(w, r)
	}))
	serve(t, m, "127.0.0.1:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="e2e"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"say who you are"}]}`, http.StatusUnauthorized)
			return
		}
		content.ServeHTTP(w, r)
	}))
	push(t, c, content, "e2e/webapp", "v1")
	p := &pods{Cluster: c, t: t}

	p.pod("open", "  containers: [{name: main, image: '127.0.0.1:5000/e2e/webapp:v1'}]\n")
	pod := p.running("open")
	if err := cluster.Want(pod.Status.ContainerStatuses[0].ImageID, "127.0.0.1:5000/e2e/webapp@sha256:"); err != nil {
		t.Error(err)
	}
	pulled := pulls.Load()
	p.pod("present", "  containers: [{name: main, image: '127.0.0.1:5000/e2e/webapp:v1', imagePullPolicy: IfNotPresent}]\n")
	p.running("present")
	if pulls.Load() != pulled {
		t.Error("an image that is present was pulled again")
	}

	closed := "  imagePullSecrets: [{name: registry}]\n  containers: [{name: main, image: '127.0.0.1:5001/e2e/webapp:v1'}]\n"
	p.pod("stranger", closed)
	p.until("stranger", "is refused", func(pod *corev1.Pod) bool { return waiting(pod) == "ImagePullBackOff" })
	p.Kubectl("create", "secret", "docker-registry", "registry", "--docker-server=127.0.0.1:5001", "--docker-username="+user, "--docker-password="+password)
	p.pod("known", closed)
	p.running("known")

	p.pod("missing", "  containers: [{name: main, image: '127.0.0.1:5000/e2e/nothing:v1'}]\n")
	pod = p.until("missing", "is in its back-off", func(pod *corev1.Pod) bool { return waiting(pod) == "ImagePullBackOff" })
	message := pod.Status.ContainerStatuses[0].State.Waiting.Message
	if err := cluster.Want(message, `Back-off pulling image "127.0.0.1:5000/e2e/nothing:v1": ErrImagePull: `); err != nil {
		t.Error(err)
	}
	p.pod("never", "  containers: [{name: main, image: '127.0.0.1:5000/e2e/nothing:v1', imagePullPolicy: Never}]\n")
	pod = p.until("never", "is refused", func(pod *corev1.Pod) bool { return waiting(pod) == "ErrImageNeverPull" })
	if err := cluster.Want(pod.Status.ContainerStatuses[0].State.Waiting.Message, `Container image "127.0.0.1:5000/e2e/nothing:v1" is not present with pull policy of Never`); err != nil {
		t.Error(err)
	}
}

// waiting is why a pod's only container waits.
func waiting(pod *corev1.Pod) string {
	if s := pod.Status.ContainerStatuses; len(s) == 1 && s[0].State.Waiting != nil {
		return s[0].State.Waiting.Reason
	}
	return ""
}

func serve(t *testing.T, m *machine.Machine, address string, handler http.Handler) {
	t.Helper()
	l, err := m.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

// push builds webapp's image and uploads it to the registry.
func push(t *testing.T, c *cluster.Cluster, registry http.Handler, repository, tag string) {
	t.Helper()
	dir := t.TempDir()
	app, archive := filepath.Join(dir, "webapp"), filepath.Join(dir, "image.tar")
	cluster.GoBuild(t, app, "./test/e2e/webapp")
	out, err := c.Command(t.Context(), "image", "build", "--name", repository+":"+tag, "--binary", app, "--output", archive).CombinedOutput()
	if err != nil {
		t.Fatalf("skiff image build: %v\n%s", err, out)
	}
	image, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		blob, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		digest, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		upload(t, registry, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digest.String(), "", blob)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	upload(t, registry, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digest.String(), "", bytes.NewReader(config))
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	kind, err := image.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	upload(t, registry, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, string(kind), bytes.NewReader(manifest))
}

func upload(t *testing.T, registry http.Handler, method, path, kind string, body io.Reader) {
	t.Helper()
	req := httptest.NewRequest(method, path, body)
	req.Header.Set("Content-Type", kind)
	res := httptest.NewRecorder()
	if registry.ServeHTTP(res, req); res.Code != http.StatusCreated {
		t.Fatalf("%s %s: %d %s", method, path, res.Code, res.Body)
	}
}
