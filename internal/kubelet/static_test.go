package kubelet

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet/cri/config"
	kubeletimage "skiff.dev/skiff/internal/kubelet/image"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/testing/fakecri"
)

const manifest = `
apiVersion: v1
kind: Pod
metadata: {name: etcd, namespace: kube-system}
spec:
  containers: [{name: main, image: img, imagePullPolicy: IfNotPresent}]
`

// TestStaticPods is in real time, for it watches a directory.
func TestStaticPods(t *testing.T) {
	dir := t.TempDir()
	manifests := filepath.Join(dir, "manifests")
	if err := os.Mkdir(manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(manifests, "etcd.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(manifest)
	a, rt := newAPI(), fakecri.New("docker.io/library/img:latest")
	c := client.New(a)
	k := New(Config{
		Client: c, Events: &events{}, Runtime: rt, Images: rt, Volumes: noVolumes{}, Cgroups: &noCgroups{},
		Node:    config.Node{Name: "N1", ClusterDomain: "cluster.local", Allocatable: func() v1.ResourceList { return nil }},
		HostIPs: func() []string { return []string{"192.0.2.1"} }, Layout: layout.Below(dir), StaticPodPath: manifests,
		Pulls: kubeletimage.DefaultPullConfig(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ref := client.Ref{GroupVersionResource: v1.SchemeGroupVersion.WithResource("nodes")}
	if _, err := a.Create(ctx, ref, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "N1", UID: "node-uid"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mirror := awaitPod(t, c, "etcd-n1", func(p *v1.Pod) bool { return running(p) })
	if mirror.Annotations[v1.MirrorPodAnnotationKey] == "" || mirror.OwnerReferences[0].UID != "node-uid" {
		t.Errorf("mirror pod %+v, want the annotation and the node as owner", mirror.ObjectMeta)
	}

	// A mirror that is deleted comes back; its pod runs on.
	calls := len(rt.Calls())
	if err := client.For[*v1.Pod](c).Delete(ctx, "kube-system", "etcd-n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitPod(t, c, "etcd-n1", func(p *v1.Pod) bool { return running(p) && p.UID != mirror.UID })
	if len(rt.Calls()) != calls {
		t.Errorf("deleting the mirror reached the runtime: %v", rt.Calls()[calls:])
	}

	// Another manifest is another pod, after the first has ended.
	hash := mirror.Annotations[v1.MirrorPodAnnotationKey]
	write(strings.Replace(manifest, "main", "other", 1))
	awaitPod(t, c, "etcd-n1", func(p *v1.Pod) bool {
		return running(p) && p.Annotations[v1.MirrorPodAnnotationKey] != hash && p.Spec.Containers[0].Name == "other"
	})
	if got := rt.Running(); !slices.Equal(got, []string{"etcd-n1/other"}) {
		t.Errorf("running %v", got)
	}
	if err := os.Remove(filepath.Join(manifests, "etcd.yaml")); err != nil {
		t.Fatal(err)
	}
	awaitPod(t, c, "etcd-n1", gone)
	if v := rt.Violations(); len(v) > 0 {
		t.Errorf("misuse of the runtime: %v", v)
	}
}

// awaitPod follows the API's pods until the one of that name satisfies the
// condition, and returns it.
func awaitPod(t *testing.T, c *client.Client, name string, satisfied func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cache, err := client.For[*v1.Pod](c).Cache(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var last *v1.Pod
	err = cache.Follow(ctx, func(ch client.Change[*v1.Pod]) {
		if o := ch.Object(); o.Name == name {
			last = o
			if ch.Deleted {
				last = nil
			}
		}
	}, func() {
		if satisfied(last) {
			cancel()
		}
	})
	if !satisfied(last) {
		t.Fatalf("waiting for pod %s: %v; last %+v", name, err, last)
	}
	return last
}

func TestStaticPodRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no pod":           "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n",
		"no name":          "kind: Pod\napiVersion: v1\nspec: {containers: [{name: a, image: b}]}\n",
		"an unknown field": manifest + "unknown: 1\n",
		"not YAML":         "\t{",
		"nothing":          "",
	} {
		if p, err := StaticPod([]byte(text), "f", "n", time.Time{}); err == nil {
			t.Errorf("%s: got %+v, want an error", name, p)
		}
	}
}
