package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// DefaultTolerationSeconds lets pods stay for five minutes on a node that is
// not ready or cannot be reached, unless they say otherwise.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#defaulttolerationseconds
func DefaultTolerationSeconds() *Plugin {
	return &Plugin{
		Name:    "DefaultTolerationSeconds",
		Handles: writesPod,
		Mutate: func(_ context.Context, a *Attributes) error {
			p, err := podOf(a)
			if err != nil {
				return err
			}
			tolerate(p, corev1.TaintNodeNotReady)
			tolerate(p, corev1.TaintNodeUnreachable)
			return nil
		},
	}
}

func tolerate(p *corev1.Pod, taint string) {
	for _, t := range p.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return
		}
	}
	seconds := int64(300)
	p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{
		Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
	})
}

// TaintNodesByCondition taints new nodes as not ready, so that nothing is
// scheduled to them before their conditions are known.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#taintnodesbycondition
func TaintNodesByCondition() *Plugin {
	return &Plugin{
		Name: "TaintNodesByCondition",
		Handles: func(a *Attributes) bool {
			return a.Resource.GroupResource() == nodeResource && a.Subresource == "" && a.Operation == Create
		},
		Mutate: func(_ context.Context, a *Attributes) error {
			n, ok := a.Object.(*corev1.Node)
			if !ok {
				return nil
			}
			taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
			for i := range n.Spec.Taints {
				if n.Spec.Taints[i].MatchTaint(&taint) {
					return nil
				}
			}
			n.Spec.Taints = append(n.Spec.Taints, taint)
			return nil
		},
	}
}
