package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/image"
	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/cri/config"
	kubeletimage "skiff.dev/skiff/internal/kubelet/image"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/logs"
	"skiff.dev/skiff/internal/kubelet/podcgroup"
	skiffruntime "skiff.dev/skiff/internal/runtime"
)

// realNode is a kubelet over the real container runtime.
type realNode struct {
	testing.TB
	dir    string
	rt     *skiffruntime.Runtime
	cri    *cri.Client
	api    *api
	client *client.Client
	events *events
	k      *Kubelet
	stop   func()
}

func newRealNode(t testing.TB) *realNode {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to run containers")
	}
	if err := skiffruntime.Carried(); err != nil {
		t.Skip("SKIPPED:", err)
	}
	n := &realNode{TB: t, dir: t.TempDir(), api: newAPI(), events: &events{}}
	n.client = client.New(n.api)
	t.Cleanup(func() {
		if err := skiffruntime.Reset(n.dir); err != nil {
			t.Error(err)
		}
	})
	var err error
	n.rt, err = skiffruntime.Start(t.Context(), skiffruntime.Config{DataDir: n.dir, Log: n.logger(slog.LevelInfo)})
	n.ok(err)
	t.Cleanup(func() { n.ok(n.rt.Stop(context.Background())) })
	n.cri, err = cri.New(n.rt.Endpoint())
	n.ok(err)
	t.Cleanup(func() { n.ok(n.cri.Close()) })
	n.image("example.com/probe:1")
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *realNode) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(n.Output(), &slog.HandlerOptions{Level: level}))
}

func (n *realNode) ok(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// start brings up a kubelet; stop ends it and leaves the containers.
func (n *realNode) start() {
	n.Helper()
	tree, err := cgroup.New(cgroup.RootOf(n.dir))
	n.ok(err)
	groups, err := podcgroup.New(tree, cgroup.RootOf(n.dir), 0)
	n.ok(err)
	n.k = New(Config{
		Client: n.client, Events: n.events, Runtime: n.cri, Images: n.cri, Volumes: noVolumes{}, Cgroups: groups,
		Node:    config.Node{Name: "n1", ClusterDomain: "cluster.local", Allocatable: func() v1.ResourceList { return nil }},
		HostIPs: func() []string { return []string{"192.0.2.1"} }, Layout: layout.Below(n.dir),
		StaticPodPath: filepath.Join(n.dir, "manifests"),
		Pulls:         kubeletimage.DefaultPullConfig(), Logs: logs.DefaultConfig(), Log: n.logger(slog.LevelInfo),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.k.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		n.ok(<-ended)
	})
}

// image builds the runtime's test program and the host's shell with a few
// tools into an image and imports it.
func (n *realNode) image(name string) {
	n.Helper()
	program := filepath.Join(n.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", program, "../runtime/testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		n.Fatalf("building the probe: %v\n%s", err, out)
	}
	sources := []image.Source{{Binary: program}}
	for _, tool := range []string{"sh", "cat", "id", "sleep", "grep", "touch", "env"} {
		path, err := exec.LookPath(tool)
		n.ok(err)
		sources = append(sources, image.Source{Binary: path, Target: "/bin/" + tool})
	}
	img, err := image.Build(image.Spec{Sources: sources, Entrypoint: []string{"/probe"}, Env: []string{"PATH=/bin"}})
	n.ok(err)
	archive, err := os.Create(filepath.Join(n.TempDir(), "probe.tar"))
	n.ok(err)
	n.ok(errors.Join(image.WriteArchive(archive, img, name), archive.Close()))
	_, err = n.rt.Images().Import(n.Context(), archive.Name())
	n.ok(err)
}

// shell returns a pod whose container runs a script.
func (n *realNode) shell(name, script string) *v1.Pod {
	p := n.pod(name)
	p.Spec.Containers[0].Command = []string{"/bin/sh", "-c", script}
	return p
}

// log returns what the first instance of the pod's container has written.
func (n *realNode) log(p *v1.Pod) string {
	n.Helper()
	l := layout.Below(n.dir)
	b, err := os.ReadFile(filepath.Join(l.PodLogDir(p), layout.LogPath("main", 0)))
	n.ok(err)
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
			out.WriteString(parts[3])
		}
	}
	return out.String()
}

// pod returns a pod on the host's network that runs the program with args.
func (n *realNode) pod(name string, args ...string) *v1.Pod {
	grace := int64(5)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1.PodSpec{
			NodeName: "n1", HostNetwork: true, RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			DNSPolicy: v1.DNSDefault,
			Containers: []v1.Container{{Name: "main", Image: "example.com/probe:1", Args: args,
				ImagePullPolicy: v1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log"}},
		},
	}
}

func (n *realNode) create(p *v1.Pod) {
	n.Helper()
	_, err := client.For[*v1.Pod](n.client).Create(n.Context(), p)
	n.ok(err)
}

// wait follows the API's pods until one satisfies the condition; nil stands
// for a pod that is not there.
func (n *realNode) wait(name, what string, satisfied func(*v1.Pod) bool) *v1.Pod {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.Context(), 30*time.Second)
	defer cancel()
	cache, err := client.For[*v1.Pod](n.client).Cache(ctx)
	n.ok(err)
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
		n.events.mu.Lock()
		defer n.events.mu.Unlock()
		n.Fatalf("waiting for pod %s to be %s: %v\n%+v\nevents: %s", name, what, err, last, strings.Join(n.events.list, "\n"))
	}
	return last
}
