package kubelet

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet/cri/config"
	kubeletimage "skiff.dev/skiff/internal/kubelet/image"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/logs"
	"skiff.dev/skiff/internal/testing/fakecri"
)

// sim is a kubelet over the fake runtime, in virtual time.
type sim struct {
	testing.TB
	api      *api
	client   *client.Client
	cri      *fakecri.Runtime
	events   *events
	groups   *noCgroups // of the kubelet that runs
	layout   layout.Layout
	programs map[string]*fakecri.Program // by container name
	k        *Kubelet
	stop     func()
}

// noCgroups is for nodes without a kernel; it knows the pods that have a group.
type noCgroups struct{ pods sync.Map }

func (g *noCgroups) EnsurePod(p *v1.Pod) (string, error) {
	g.pods.Store(p.Name, true)
	return "/test", nil
}

func (g *noCgroups) RemovePod(types.UID) error { return nil }

func (g *noCgroups) has(name string) bool {
	_, ok := g.pods.Load(name)
	return ok
}

// simulate runs f with a kubelet in a bubble of virtual time; at the end the
// runtime must not have been misused.
func simulate(t *testing.T, f func(t *testing.T, s *sim)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &sim{TB: t, api: newAPI(), cri: fakecri.New("docker.io/library/img:latest"), events: &events{},
			layout: layout.Below(dir), programs: map[string]*fakecri.Program{}}
		s.client = client.New(s.api)
		s.cri.Program = func(c *runtimeapi.ContainerConfig) *fakecri.Program { return s.programs[c.Metadata.Name] }
		s.start()
		defer func() { s.stop() }()
		f(t, s)
		s.stop()
		for _, v := range s.cri.Violations() {
			t.Errorf("misuse of the runtime: %s", v)
		}
	})
}

func (s *sim) start() {
	s.groups = &noCgroups{}
	s.k = New(Config{
		Client: s.client, Events: s.events, Runtime: s.cri, Images: s.cri, Volumes: noVolumes{}, Cgroups: s.groups,
		Node:    config.Node{Name: "n1", ClusterDomain: "cluster.local", Allocatable: func() v1.ResourceList { return nil }},
		HostIPs: func() []string { return []string{"192.0.2.1"} }, Layout: s.layout, MaxPods: 110,
		Pulls: kubeletimage.DefaultPullConfig(), Logs: logs.Config{}, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	k := s.k
	go func() {
		defer close(ended)
		if err := k.Run(ctx); err != nil {
			s.Error(err)
		}
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
}

// pass lets time pass and everything settle.
func (s *sim) pass(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

func simPod(name string, containers ...string) *v1.Pod {
	grace := int64(30)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1.PodSpec{NodeName: "n1", RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: c, Image: "img", ImagePullPolicy: v1.PullIfNotPresent})
	}
	return p
}

func (s *sim) create(p *v1.Pod) {
	s.Helper()
	if _, err := client.For[*v1.Pod](s.client).Create(context.Background(), p); err != nil {
		s.Fatal(err)
	}
	synctest.Wait()
}

func (s *sim) delete(name string) {
	s.Helper()
	if err := client.For[*v1.Pod](s.client).Delete(context.Background(), "default", name, metav1.DeleteOptions{}); err != nil {
		s.Fatal(err)
	}
	synctest.Wait()
}

// get returns the API's pod, nil if there is none.
func (s *sim) get(name string) *v1.Pod {
	p, err := client.For[*v1.Pod](s.client).Get(context.Background(), "default", name)
	if err != nil {
		return nil
	}
	return p
}

func (s *sim) update(name string, f func(*v1.Pod)) {
	s.Helper()
	p := s.get(name).DeepCopy()
	f(p)
	if _, err := client.For[*v1.Pod](s.client).Update(context.Background(), p); err != nil {
		s.Fatal(err)
	}
	synctest.Wait()
}
