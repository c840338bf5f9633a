package plugins

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// verdictTest asks one plugin about one pod and one node.
type verdictTest struct {
	name string
	pod  *corev1.Pod
	node *corev1.Node
	// placed are on the node already.
	placed []*corev1.Pod
	want   *framework.Status // of Prepare or Filter
	score  int64             // looked at only where the node passes
}

func testVerdicts(t *testing.T, p *framework.Any, tests []verdictTest) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snap := framework.NewSnapshot()
			snap.SetNode(tt.node)
			for _, pod := range tt.placed {
				snap.SetPod(framework.NewPod(pod), tt.node.Name)
			}
			ready := p.Prepare(framework.NewPod(tt.pod), snap)
			got := ready.Reject
			if got == nil && !ready.Skip && ready.Filter != nil {
				got = ready.Filter(snap.Node(tt.node.Name))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Fatalf("verdict (-want +got):\n%s", diff)
			}
			if got != nil || ready.Skip || ready.Score == nil {
				return
			}
			if score := ready.Score(snap.Node(tt.node.Name)); score != tt.score {
				t.Errorf("score %d, want %d", score, tt.score)
			}
		})
	}
}

type wakeTest struct {
	name  string
	event framework.Event
	want  bool
}

func testWakes(t *testing.T, p *framework.Any, waiting *corev1.Pod, tests []wakeTest) {
	t.Helper()
	for _, tt := range tests {
		got := false
		for _, w := range p.Wakes {
			got = got || w.Wakes(framework.NewPod(waiting), tt.event)
		}
		if got != tt.want {
			t.Errorf("%s: woken %v, want %v", tt.name, got, tt.want)
		}
	}
}

func makeNode(name string, edit ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Allocatable: amounts("cpu", "4", "memory", "8Gi", "pods", "110")},
	}
	for _, f := range edit {
		f(n)
	}
	return n
}

func makePod(name string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	for _, f := range edit {
		f(p)
	}
	return p
}

// asking makes a pod of one container that requests the amounts.
func asking(name string, pairs ...string) *corev1.Pod {
	return makePod(name, func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: amounts(pairs...)}}}
	})
}

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}
