// Package metrics defines the resources of the API group metrics.k8s.io. Both
// are virtual: what nodes and pods use is found out when it is read, and nothing
// is stored. The answers are those of metrics-server.
// https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/#metrics-api
package metrics

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"skiff.dev/skiff/internal/apiserver/usage"
	"skiff.dev/skiff/internal/meta"
	definition "skiff.dev/skiff/internal/resource"
)

// A Meter knows by name what nodes and their pods use now; see usage.Meter.
type Meter interface {
	Of(ctx context.Context, nodes []*corev1.Node) map[string]*usage.Node
}

var (
	coreNodes = schema.GroupResource{Resource: "nodes"}
	corePods  = schema.GroupResource{Resource: "pods"}
)

// Nodes is metrics.k8s.io/v1beta1 NodeMetrics: what each node uses, under the
// node's name and labels. A node of which nothing is known is missing.
func Nodes(m Meter) *definition.Definition[*metricsv1beta1.NodeMetrics] {
	return &definition.Definition[*metricsv1beta1.NodeMetrics]{
		Name:  definition.Name{Group: metricsv1beta1.GroupName, Version: "v1beta1", Kind: "NodeMetrics", Plural: "nodes"},
		Scope: definition.Cluster,
		Observe: func(ctx context.Context, a definition.Access, q definition.Query) ([]*metricsv1beta1.NodeMetrics, error) {
			nodes, err := selected[*corev1.Node](ctx, a, coreNodes, q)
			if err != nil {
				return nil, err
			}
			var out []*metricsv1beta1.NodeMetrics
			used := m.Of(ctx, nodes)
			for _, n := range nodes {
				if u := used[n.Name]; u != nil && u.Known {
					out = append(out, &metricsv1beta1.NodeMetrics{
						ObjectMeta: named(n), Timestamp: metav1.NewTime(u.Time), Window: metav1.Duration{Duration: u.Window}, Usage: quantities(u.Reading),
					})
				}
			}
			return out, nil
		},
		Columns: columns(func(n *metricsv1beta1.NodeMetrics) (corev1.ResourceList, metav1.Duration) { return n.Usage, n.Window }),
	}
}

// Pods is metrics.k8s.io/v1beta1 PodMetrics: what each container of a running
// pod uses, under the pod's name and labels. A pod of which not everything is
// known is missing.
func Pods(m Meter) *definition.Definition[*metricsv1beta1.PodMetrics] {
	return &definition.Definition[*metricsv1beta1.PodMetrics]{
		Name: definition.Name{Group: metricsv1beta1.GroupName, Version: "v1beta1", Kind: "PodMetrics", Plural: "pods"},
		Observe: func(ctx context.Context, a definition.Access, q definition.Query) ([]*metricsv1beta1.PodMetrics, error) {
			pods, err := selected[*corev1.Pod](ctx, a, corePods, q)
			if err != nil {
				return nil, err
			}
			pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning })
			nodes, err := nodesOf(ctx, a, pods)
			if err != nil {
				return nil, err
			}
			var out []*metricsv1beta1.PodMetrics
			used := m.Of(ctx, nodes)
			for _, p := range pods {
				if u := used[p.Spec.NodeName]; u != nil && u.Pods[meta.KeyOf(p)] != nil {
					out = append(out, podMetrics(p, u.Pods[meta.KeyOf(p)]))
				}
			}
			return out, nil
		},
		Columns: columns(func(p *metricsv1beta1.PodMetrics) (corev1.ResourceList, metav1.Duration) { return total(p), p.Window }),
	}
}

// selected reads the objects that the query is about.
func selected[T meta.Object](ctx context.Context, a definition.Access, gr schema.GroupResource, q definition.Query) ([]T, error) {
	var objs []meta.Object
	if q.Name != "" && (q.Namespace != "" || gr == coreNodes) {
		obj, err := a.Get(ctx, gr, meta.Key{Namespace: q.Namespace, Name: q.Name})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		objs = append(objs, obj)
	} else {
		var err error
		if objs, err = a.List(ctx, gr, q.Namespace); err != nil {
			return nil, err
		}
	}
	out := make([]T, 0, len(objs))
	for _, obj := range objs {
		if q.Name != "" && obj.GetName() != q.Name || q.Labels != nil && !q.Labels.Matches(labels.Set(obj.GetLabels())) {
			continue
		}
		out = append(out, obj.(T))
	}
	return out, nil
}

// nodesOf returns the nodes that pods run on, each once.
func nodesOf(ctx context.Context, a definition.Access, pods []*corev1.Pod) ([]*corev1.Node, error) {
	names := map[string]bool{}
	for _, p := range pods {
		names[p.Spec.NodeName] = true
	}
	if len(names) == 0 {
		return nil, nil
	}
	all, err := selected[*corev1.Node](ctx, a, coreNodes, definition.Query{})
	return slices.DeleteFunc(all, func(n *corev1.Node) bool { return !names[n.Name] }), err
}

// named is the metadata of what is told of an object, made now.
func named(obj meta.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: obj.GetNamespace(), Name: obj.GetName(), Labels: obj.GetLabels(), CreationTimestamp: metav1.Now(),
	}
}

// podMetrics lists the containers in the order of their names. The time is that
// of the reading that is oldest.
func podMetrics(p *corev1.Pod, used map[string]usage.Reading) *metricsv1beta1.PodMetrics {
	out := &metricsv1beta1.PodMetrics{ObjectMeta: named(p), Containers: make([]metricsv1beta1.ContainerMetrics, 0, len(used))}
	for name, r := range used {
		if out.Timestamp.IsZero() || r.Time.Before(out.Timestamp.Time) {
			out.Timestamp, out.Window = metav1.NewTime(r.Time), metav1.Duration{Duration: r.Window}
		}
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: quantities(r)})
	}
	slices.SortFunc(out.Containers, func(a, b metricsv1beta1.ContainerMetrics) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func quantities(r usage.Reading) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(r.CPU), resource.Nano),  //nolint:gosec // cores
		corev1.ResourceMemory: *resource.NewQuantity(int64(r.Memory), resource.BinarySI), //nolint:gosec // bytes
	}
}

func total(p *metricsv1beta1.PodMetrics) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for _, c := range p.Containers {
		for name, q := range c.Usage {
			all := sum[name]
			all.Add(q)
			sum[name] = all
		}
	}
	return sum
}

func columns[T meta.Object](of func(T) (corev1.ResourceList, metav1.Duration)) []definition.Column[T] {
	var out []definition.Column[T]
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		out = append(out, definition.Column[T]{
			Name: string(name), Format: "quantity", Description: "What is used of " + string(name) + ".",
			Value: func(obj T) any {
				used, _ := of(obj)
				q := used[name]
				return q.String()
			},
		})
	}
	return append(out, definition.Column[T]{
		Name: "Window", Format: "duration", Description: "The time over which the use of CPU was measured.",
		Value: func(obj T) any {
			_, window := of(obj)
			return window.Duration.String()
		},
	})
}
