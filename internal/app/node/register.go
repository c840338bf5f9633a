package node

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/nodestatus"
)

// reporter returns what registers the node and reports its status.
func (n *Node) reporter(cidrs func([]string)) (*nodestatus.Reporter, error) {
	machine, err := nodestatus.ReadMachine(n.DataDir)
	if err != nil {
		return nil, fmt.Errorf("reading what this machine has: %w", err)
	}
	taints, err := taintsOf(n.Taints)
	if err != nil {
		return nil, err
	}
	return nodestatus.New(nodestatus.Config{
		Client: n.Client, Events: n.events, Runtime: n.cri, Log: n.Log,
		Name: n.Name, Hostname: n.Name, HostIPs: func() []string { return []string{n.IP.String()} },
		Port: int32(n.Kubelet.Port), Machine: machine, MaxPods: int64(n.MaxPods), Reserve: n.Settings.Reserve,
		LeaseSeconds: n.Settings.LeaseSeconds, MaxImages: n.Settings.MaxImages, ProviderID: n.Settings.ProviderID,
		Labels: n.Labels, Taints: taints, PodCIDRs: cidrs,
	}), nil
}

// register reports the node and connects its pods whenever it is given their
// networks.
func (n *Node) register(ctx context.Context, g *errgroup.Group) (*nodestatus.Reporter, error) {
	given := make(chan []string, 1)
	r, err := n.reporter(func(cidrs []string) {
		select {
		case <-given: // one that nobody has taken yet is out of date
		default:
		}
		given <- cidrs
	})
	if err != nil {
		return nil, err
	}
	g.Go(func() error { r.Run(ctx); return nil })
	g.Go(func() error { return n.followPodCIDRs(ctx, given, r.Changed) })
	g.Go(func() error {
		select {
		case <-r.Ready():
			n.Progress.Say("node %s is ready", n.Name)
		case <-ctx.Done():
		}
		return nil
	})
	return r, nil
}

func (n *Node) followPodCIDRs(ctx context.Context, given <-chan []string, changed func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case texts := <-given:
			cidrs := make([]netip.Prefix, 0, len(texts))
			for _, t := range texts {
				p, err := netip.ParsePrefix(t)
				if err != nil {
					return fmt.Errorf("reading the pod CIDRs of node %s: %w", n.Name, err)
				}
				cidrs = append(cidrs, p)
			}
			if n.runtime != nil || !n.KubeletOnly { // else the runtime has a network of its own
				if err := n.connect(ctx, cidrs); err != nil {
					return err
				}
			}
			changed()
		}
	}
}

// taintsOf reads key[=value]:effect.
func taintsOf(texts []string) (taints []corev1.Taint, err error) {
	for _, t := range texts {
		head, effect, ok := strings.Cut(t, ":")
		key, value, _ := strings.Cut(head, "=")
		if !ok || key == "" || effect == "" {
			return nil, fmt.Errorf("--register-with-taints: %q is not key=value:effect", t)
		}
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return taints, nil
}
