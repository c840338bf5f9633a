package framework

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func somePod(t *rapid.T, uid string) *Pod {
	return NewPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				"cpu": *resource.NewMilliQuantity(rapid.Int64Range(0, 3).Draw(t, "cpu"), resource.DecimalSI),
			}},
			Ports: []corev1.ContainerPort{{HostPort: rapid.Int32Range(0, 2).Draw(t, "port")}},
		}}},
	})
}

func someNode(t *rapid.T, name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, image := range []string{"a", "b"} {
		if rapid.Bool().Draw(t, image) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}})
		}
	}
	return n
}

// facts is what a plugin can see of a snapshot.
type facts struct {
	Nodes  map[string]nodeFacts
	Images map[string]int
}

type nodeFacts struct {
	CPU, Assumed, Pods int64
	Ports              map[int32]int
	UIDs               map[string]bool
}

func factsOf(s *Snapshot) facts {
	f := facts{Nodes: map[string]nodeFacts{}, Images: map[string]int{"a": s.NodesWithImage("a"), "b": s.NodesWithImage("b")}}
	for _, n := range s.Nodes() {
		nf := nodeFacts{CPU: n.Requested.MilliCPU, Assumed: n.Assumed.MilliCPU, Pods: n.Requested.Pods, Ports: map[int32]int{}, UIDs: map[string]bool{}}
		for _, p := range n.HostPorts {
			nf.Ports[p.Port]++
		}
		for _, p := range n.Pods {
			nf.UIDs[string(p.UID)] = true
		}
		f.Nodes[n.Name()] = nf
	}
	return f
}

// TestSnapshot changes a snapshot at random and checks it against one that is
// built from scratch, and that whoever follows ChangedSince misses nothing.
func TestSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot()
		nodes, pods, at := map[string]*corev1.Node{}, map[string]*Pod{}, map[string]string{}
		var followed []uint64 // generations by slot
		position := s.Now()
		node := func() string { return fmt.Sprintf("n%d", rapid.IntRange(0, 5).Draw(t, "node")) }
		uid := func() string { return fmt.Sprintf("p%d", rapid.IntRange(0, 9).Draw(t, "pod")) }
		t.Repeat(map[string]func(*rapid.T){
			"set node": func(t *rapid.T) {
				name := node()
				nodes[name] = someNode(t, name)
				s.SetNode(nodes[name])
			},
			"delete node": func(*rapid.T) {
				name := node()
				delete(nodes, name)
				s.DeleteNode(name)
			},
			"set pod": func(t *rapid.T) {
				id := uid()
				pods[id], at[id] = somePod(t, id), node()
				s.SetPod(pods[id], at[id])
			},
			"remove pod": func(*rapid.T) {
				id := uid()
				delete(pods, id)
				delete(at, id)
				s.RemovePod(types.UID(id))
			},
			"follow": func(t *rapid.T) {
				slots, ok := s.ChangedSince(position)
				position = s.Now()
				followed = append(followed, make([]uint64, 10)...)[:len(s.Nodes())]
				for _, slot := range slots {
					if int(slot) < len(followed) {
						followed[slot] = s.Nodes()[slot].Generation()
					}
				}
				for slot, n := range s.Nodes() {
					if !ok {
						followed[slot] = n.Generation()
					}
					if followed[slot] != n.Generation() || n.Slot() != slot {
						t.Fatalf("missed a change in slot %d", slot)
					}
				}
			},
			"": func(t *rapid.T) {
				fresh := NewSnapshot()
				for _, n := range nodes {
					fresh.SetNode(n)
				}
				for id, p := range pods {
					fresh.SetPod(p, at[id])
				}
				if diff := cmp.Diff(factsOf(fresh), factsOf(s)); diff != "" {
					t.Fatalf("snapshot (-from scratch +incremental):\n%s", diff)
				}
			},
		})
	})
}

func TestSignerIsUnambiguous(t *testing.T) {
	sign := func(f func(*Signer)) string {
		var s Signer
		f(&s)
		return s.Class()
	}
	classes := map[string]int{}
	for i, f := range []func(*Signer){
		func(s *Signer) { s.String("ab"); s.String("c") },
		func(s *Signer) { s.String("a"); s.String("bc") },
		func(s *Signer) { s.Map(map[string]string{"a": "b"}) },
		func(s *Signer) { s.Map(map[string]string{"b": "a"}) },
		func(s *Signer) { s.Message(nil) },
		func(s *Signer) { s.Message(&corev1.Toleration{}) },
		func(s *Signer) { s.Message(&corev1.Toleration{Key: "a"}) },
		func(s *Signer) { s.Resources(&Resources{MilliCPU: 1}) },
		func(s *Signer) { s.Resources(&Resources{Memory: 1}) },
		func(s *Signer) { s.Resources(&Resources{Scalar: map[corev1.ResourceName]int64{"a": 1}}) },
	} {
		classes[sign(f)] = i
	}
	if len(classes) != 10 {
		t.Errorf("10 different pods make %d classes: %v", len(classes), classes)
	}
	many := map[string]string{}
	for i := range 20 {
		many[fmt.Sprint(i)] = "x"
	}
	for range 10 {
		if sign(func(s *Signer) { s.Map(many) }) != sign(func(s *Signer) { s.Map(maps.Clone(many)) }) {
			t.Fatal("equal maps sign differently")
		}
	}
}
