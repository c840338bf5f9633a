package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
)

// State is what a cluster has come to, without what differs between any two
// runs: names drawn, uids, versions, times, who landed where, and which of the
// templates of the past a controller got to see before the next one came. Two
// clusters to which users did the same have the same State once they are at
// rest, whatever failed on the way (I16).
type State struct {
	// Nodes says of each whether it is ready, and its taints.
	Nodes map[string]string
	// Deployments, ReplicaSets that are in use (by owner) and Endpoints (by
	// service) in words.
	Deployments, ReplicaSets, Endpoints map[string]string
	// Pods counts them by Deployment, image, phase and readiness.
	Pods map[string]int
	// Odd is what should not be there in any run.
	Odd []string
}

// State reads the state of the cluster from the API.
func (c *Cluster) State() *State {
	c.t.Helper()
	s := &State{
		Nodes: map[string]string{}, Deployments: map[string]string{}, ReplicaSets: map[string]string{},
		Endpoints: map[string]string{}, Pods: map[string]int{},
	}
	c.Do("reading the state", func(ctx context.Context, api *client.Client) error { return s.read(ctx, api) })
	return s
}

func (s *State) read(ctx context.Context, api *client.Client) error {
	nodes, err := list[*corev1.Node](ctx, api)
	if err != nil {
		return err
	}
	apps, err := list[*appsv1.Deployment](ctx, api)
	if err != nil {
		return err
	}
	sets, err := list[*appsv1.ReplicaSet](ctx, api)
	if err != nil {
		return err
	}
	pods, err := list[*corev1.Pod](ctx, api)
	if err != nil {
		return err
	}
	slices, err := list[*discoveryv1.EndpointSlice](ctx, api)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		s.Nodes[n.Name] = fmt.Sprintf("ready=%v taints=%s", node.IsReady(n), taints(n))
	}
	for _, d := range apps {
		s.Deployments[d.Name] = fmt.Sprintf("%d of %s: %s", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image,
			counts(d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.ReadyReplicas, d.Status.AvailableReplicas))
	}
	owner := map[types.UID]string{}
	for _, rs := range sets {
		of := ownerOf(rs)
		owner[rs.UID] = of
		if of == "nobody" {
			s.Odd = append(s.Odd, "ReplicaSet without an owner: "+rs.Name)
		}
		if *rs.Spec.Replicas == 0 && rs.Status.Replicas == 0 {
			continue
		}
		s.ReplicaSets[of] += fmt.Sprintf("%d of %s: %s; ", *rs.Spec.Replicas, rs.Spec.Template.Spec.Containers[0].Image,
			counts(rs.Status.Replicas, rs.Status.ReadyReplicas, rs.Status.AvailableReplicas))
	}
	s.addPods(pods, owner, nodes)
	s.addEndpoints(slices)
	return nil
}

func list[T meta.Object](ctx context.Context, api *client.Client) ([]T, error) {
	return client.For[T](api).List(ctx, "", metav1.ListOptions{})
}

func ownerOf(o metav1.Object) string {
	if ref := meta.ControllerOf(o); ref != nil {
		return ref.Name
	}
	return "nobody"
}

func counts(n ...int32) string { return strings.Trim(fmt.Sprint(n), "[]") }

func taints(n *corev1.Node) string {
	var all []string
	for _, t := range n.Spec.Taints {
		all = append(all, t.Key+":"+string(t.Effect))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

func (s *State) addPods(pods []*corev1.Pod, owner map[types.UID]string, nodes []*corev1.Node) {
	ips := map[string]string{}
	for _, p := range pods {
		ref := meta.ControllerOf(p)
		if ref == nil || owner[ref.UID] == "" {
			s.Odd = append(s.Odd, "pod without a living owner: "+p.Name)
			continue
		}
		if p.DeletionTimestamp != nil {
			s.Odd = append(s.Odd, "pod still being deleted: "+p.Name+" on "+p.Spec.NodeName)
		}
		if ip := p.Status.PodIP; ip != "" && !pod.IsTerminal(p) {
			if other := ips[ip]; other != "" {
				s.Odd = append(s.Odd, fmt.Sprintf("pods %s and %s both have the address %s", p.Name, other, ip))
			}
			ips[ip] = p.Name
		}
		if !slices.ContainsFunc(nodes, func(n *corev1.Node) bool { return n.Name == p.Spec.NodeName }) {
			s.Odd = append(s.Odd, fmt.Sprintf("pod %s is on no node: %q", p.Name, p.Spec.NodeName))
		}
		s.Pods[fmt.Sprintf("%s %s %s ready=%v", owner[ref.UID], p.Spec.Containers[0].Image, p.Status.Phase, pod.IsReady(p))]++
	}
	slices.Sort(s.Odd)
}

func (s *State) addEndpoints(all []*discoveryv1.EndpointSlice) {
	ready, other := map[string]int{}, map[string]int{}
	for _, slice := range all {
		svc := slice.Labels[discoveryv1.LabelServiceName]
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				ready[svc]++
			} else {
				other[svc]++
			}
		}
		s.Endpoints[svc] = fmt.Sprintf("%d ready, %d not", ready[svc], other[svc])
	}
}

// Settled says why the cluster is not at rest, or nil: every node is ready and
// untainted, and every Deployment is as its owner wants it.
func Settled(ctx context.Context, api *client.Client) error {
	nodes, err := list[*corev1.Node](ctx, api)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if !node.IsReady(n) || len(n.Spec.Taints) > 0 {
			return fmt.Errorf("node %s: ready=%v, taints %s", n.Name, node.IsReady(n), taints(n))
		}
	}
	apps, err := list[*appsv1.Deployment](ctx, api)
	if err != nil {
		return err
	}
	var want int32
	for _, d := range apps {
		n, st := *d.Spec.Replicas, d.Status
		want += n
		if st.ObservedGeneration != d.Generation || st.Replicas != n || st.UpdatedReplicas != n || st.AvailableReplicas != n {
			return fmt.Errorf("deployment %s wants %d: %s", d.Name, n, counts(st.Replicas, st.UpdatedReplicas, st.ReadyReplicas, st.AvailableReplicas))
		}
	}
	pods, err := list[*corev1.Pod](ctx, api)
	if err == nil && len(pods) != int(want) {
		err = fmt.Errorf("there are %d pods, not %d", len(pods), want)
	}
	return err
}
