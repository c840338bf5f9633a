package plugins

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// ImageLocality prefers nodes that have the pod's images already. An image
// counts by its size, and by how many nodes have it: if only a few did, they
// would draw all the pods to themselves.
func ImageLocality() *framework.Any {
	return framework.Of(&framework.Plugin[imageSpread]{
		Name: "ImageLocality",
		Sign: func(s *framework.Signer, pod *framework.Pod) {
			names := imagesOf(pod.Pod)
			s.Int(int64(len(names)))
			for _, name := range names {
				s.String(name)
			}
		},
		Prepare: func(pod *framework.Pod, snap *framework.Snapshot) framework.Preparation[imageSpread] {
			s := imageSpread{names: imagesOf(pod.Pod)}
			s.nodes = s.count(snap)
			s.all = len(snap.Nodes())
			return framework.Preparation[imageSpread]{State: s, Skip: len(s.names) == 0}
		},
		Stale: func(s imageSpread, snap *framework.Snapshot) bool {
			nodes := s.count(snap)
			present := slices.ContainsFunc(nodes, func(n int) bool { return n > 0 })
			return !slices.Equal(nodes, s.nodes) || present && s.all != len(snap.Nodes())
		},
		Score: imageSpread.score,
	})
}

const (
	// Below smallImage it does not matter whether the images are there.
	smallImage int64 = 23 << 20
	// A node that has this much for each container gets the full score.
	largeImage int64 = 1000 << 20
)

// imageSpread says of each image of a pod how many of all nodes have it.
type imageSpread struct {
	names []string
	nodes []int
	all   int
}

func (s imageSpread) count(snap *framework.Snapshot) []int {
	nodes := make([]int, len(s.names))
	for i, name := range s.names {
		nodes[i] = snap.NodesWithImage(name)
	}
	return nodes
}

func (s imageSpread) score(n *framework.Node) int64 {
	var sum int64
	for i, name := range s.names {
		if size, ok := n.Images[name]; ok && s.all > 0 {
			sum += int64(float64(size) * float64(s.nodes[i]) / float64(s.all))
		}
	}
	most := largeImage * int64(len(s.names))
	sum = min(max(sum, smallImage), most)
	return framework.MaxScore * (sum - smallImage) / (most - smallImage)
}

// imagesOf lists the images of a pod's containers and image volumes, as nodes
// name them: with a tag.
func imagesOf(pod *corev1.Pod) []string {
	var names []string
	add := func(name string) {
		if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
			name += ":latest"
		}
		names = append(names, name)
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			add(image.Reference)
		}
	}
	return names
}
