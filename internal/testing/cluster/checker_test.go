package cluster

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/testing/build"
)

// A checker that finds nothing proves nothing unless it can find something:
// each case is a history that breaks one invariant, and its opposite.

// history feeds a checker with revisions.
type history struct {
	t *testing.T
	c *checker
	n int64
}

func (h *history) put(resource string, obj meta.Object) {
	h.t.Helper()
	data, err := scheme.EncodeProtobuf(obj)
	if err != nil {
		h.t.Fatal(err)
	}
	h.n++
	key := "/registry/" + resource + "/"
	if ns := obj.GetNamespace(); ns != "" {
		key += ns + "/"
	}
	h.c.see(store.Event{KV: store.KV{Key: key + obj.GetName(), Value: data, ModRev: h.n}})
}

func app(replicas int32) *appsv1.Deployment {
	return build.Deployment("web", replicas, func(d *appsv1.Deployment) { d.UID = "app" })
}

// set is a ReplicaSet of app.
func set(uid types.UID, replicas, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web-" + string(uid), Namespace: build.Namespace, UID: uid, OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(app(1), appsv1.SchemeGroupVersion.WithKind("Deployment")),
		}},
		Spec:   appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status: appsv1.ReplicaSetStatus{AvailableReplicas: available},
	}
}

func podOf(rs *appsv1.ReplicaSet, i int, change ...func(*corev1.Pod)) *corev1.Pod {
	p := build.Pod(fmt.Sprint("pod-", i), change...)
	p.UID = types.UID(fmt.Sprint("pod-", i))
	if rs != nil {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
	return p
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func phase(ph corev1.PodPhase) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase = ph }
}

func asks(cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = build.Resources(cpu, "1Mi") }
}

func TestCheckerFinds(t *testing.T) {
	ended := metav1.NewTime(time.Unix(1000, 0))
	tests := []struct {
		name, want string // the invariant that is broken; "" for none
		happens    func(h *history)
	}{
		{"as many pods as replicas", "", func(h *history) {
			h.put("replicasets", set("a", 2, 0))
			h.put("pods", podOf(set("a", 2, 0), 1))
			h.put("pods", podOf(set("a", 2, 0), 2))
		}},
		{"a pod too many", "I17", func(h *history) {
			h.put("replicasets", set("a", 1, 0))
			h.put("pods", podOf(set("a", 1, 0), 1))
			h.put("pods", podOf(set("a", 1, 0), 2))
		}},
		{"one that ended does not count", "", func(h *history) {
			h.put("replicasets", set("a", 1, 0))
			h.put("pods", podOf(set("a", 1, 0), 1, phase(corev1.PodFailed)))
			h.put("pods", podOf(set("a", 1, 0), 2))
		}},
		{"decided just before it was scaled down", "", func(h *history) {
			h.put("replicasets", set("a", 2, 0))
			h.put("pods", podOf(set("a", 2, 0), 1))
			time.Sleep(time.Minute)
			h.put("replicasets", set("a", 1, 0))
			h.put("pods", podOf(set("a", 2, 0), 2))
		}},
		{"decided long after", "I17", func(h *history) {
			h.put("replicasets", set("a", 2, 0))
			h.put("pods", podOf(set("a", 2, 0), 1))
			h.put("replicasets", set("a", 1, 0))
			time.Sleep(time.Minute)
			h.put("pods", podOf(set("a", 2, 0), 2))
		}},
		{"more than the surge", "I17", func(h *history) {
			h.put("deployments", app(4))
			h.put("replicasets", set("a", 4, 4))
			h.put("replicasets", set("b", 2, 0))
		}},
		{"within the surge", "", func(h *history) {
			h.put("deployments", app(4))
			h.put("replicasets", set("a", 4, 4))
			h.put("replicasets", set("b", 1, 0))
			h.put("replicasets", set("a", 3, 4))
		}},
		{"too few stay available", "I19", func(h *history) {
			h.put("deployments", app(4))
			h.put("replicasets", set("a", 4, 4))
			h.put("replicasets", set("b", 1, 0))
			h.put("replicasets", set("a", 2, 4))
		}},
		{"what is not available may go", "", func(h *history) {
			h.put("deployments", app(4))
			h.put("replicasets", set("a", 4, 1))
			h.put("replicasets", set("a", 1, 1))
		}},
		{"bound twice", "I21", func(h *history) {
			h.put("minions", build.Node("n1"))
			h.put("minions", build.Node("n2", func(n *corev1.Node) { n.UID = "2" }))
			h.put("pods", podOf(nil, 1, on("n1")))
			h.put("pods", podOf(nil, 1, on("n2")))
		}},
		{"bound to nothing", "I21", func(h *history) { h.put("pods", podOf(nil, 1, on("n1"))) }},
		{"full", "", func(h *history) {
			h.put("minions", build.Node("n1"))
			h.put("pods", podOf(nil, 1, on("n1"), asks("3")))
			h.put("pods", podOf(nil, 2, on("n1"), asks("1")))
		}},
		{"more than full", "I21", func(h *history) {
			h.put("minions", build.Node("n1"))
			h.put("pods", podOf(nil, 1, on("n1"), asks("3")))
			h.put("pods", podOf(nil, 2, on("n1"), asks("1100m")))
		}},
		{"risen from the dead", "I26", func(h *history) {
			h.put("pods", podOf(nil, 1, phase(corev1.PodSucceeded)))
			h.put("pods", podOf(nil, 1, phase(corev1.PodRunning)))
		}},
		{"another uid under the same name", "I10", func(h *history) {
			h.put("pods", podOf(nil, 1))
			h.put("pods", podOf(nil, 1, func(p *corev1.Pod) { p.Labels = nil }))
			other := podOf(nil, 1)
			other.UID = "other"
			h.put("pods", other)
		}},
		{"the same uid under another name", "I10", func(h *history) {
			h.put("pods", podOf(nil, 1))
			other := podOf(nil, 2)
			other.UID = "pod-1"
			h.put("pods", other)
		}},
		{"a deletion taken back", "I11", func(h *history) {
			h.put("pods", podOf(nil, 1, func(p *corev1.Pod) { p.DeletionTimestamp = &ended }))
			h.put("pods", podOf(nil, 1))
		}},
		{"a deletion put off", "I11", func(h *history) {
			h.put("pods", podOf(nil, 1, func(p *corev1.Pod) { p.DeletionTimestamp = &ended }))
			later := metav1.NewTime(ended.Add(time.Minute))
			h.put("pods", podOf(nil, 1, func(p *corev1.Pod) { p.DeletionTimestamp = &later }))
		}},
		{"a generation that goes back", "I11", func(h *history) {
			h.put("pods", podOf(nil, 1, func(p *corev1.Pod) { p.Generation = 2 }))
			h.put("pods", podOf(nil, 1, func(p *corev1.Pod) { p.Generation = 1 }))
		}},
		{"a revision that goes back", "I4", func(h *history) {
			h.put("pods", podOf(nil, 1))
			h.n -= 2
			h.put("pods", podOf(nil, 1))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var found []string
				h := &history{t: t, c: newChecker(func(text string) { found = append(found, text) }), n: 10}
				tt.happens(h)
				if tt.want == "" && len(found) > 0 {
					t.Errorf("found %q where nothing is wrong", found)
				}
				if tt.want != "" && (len(found) != 1 || !strings.Contains(found[0], tt.want+": ")) {
					t.Errorf("found %q, want a breach of %s", found, tt.want)
				}
			})
		})
	}
}
