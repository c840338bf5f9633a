package node

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet"
)

func (n *Node) allocatable() corev1.ResourceList {
	return corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("20Gi"), "pods": resource.MustParse("110"), "ephemeral-storage": resource.MustParse("50Gi")}
}

func (n *Node) register(ctx context.Context, g *errgroup.Group, k *kubelet.Kubelet, tree cgroup.Tree) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{"kubernetes.io/hostname": n.Name}}}
	node.Spec.PodCIDR, node.Spec.PodCIDRs = "10.244.0.0/24", []string{"10.244.0.0/24"}
	nodes := client.For[*corev1.Node](n.Client)
	var err error
	for range 50 {
		if _, err = nodes.Get(ctx, "", n.Name); err == nil {
			break
		}
		if _, err = nodes.Create(ctx, node); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	got, err := nodes.Get(ctx, "", n.Name)
	if err != nil {
		return err
	}
	got = got.DeepCopy()
	got.Spec.Taints = nil
	got.Status.Capacity, got.Status.Allocatable = n.allocatable(), n.allocatable()
	got.Status.Addresses = []corev1.NodeAddress{{Type: "InternalIP", Address: n.IP.String()}, {Type: "Hostname", Address: n.Name}}
	got.Status.Conditions = []corev1.NodeCondition{{Type: "Ready", Status: "True", Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if _, err = nodes.UpdateStatus(ctx, got); err != nil {
		return err
	}
	return n.connect(ctx, []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")})
}
