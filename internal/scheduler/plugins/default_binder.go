package plugins

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/scheduler/framework"
)

// DefaultBinder binds a pod by posting to its binding subresource. The uid in
// it keeps another pod of the same name from being bound.
func DefaultBinder(c *client.Client) *framework.Any {
	pods := client.For[*corev1.Pod](c)
	return framework.Of(&framework.Plugin[struct{}]{
		Name: "DefaultBinder",
		Bind: func(ctx context.Context, pod *corev1.Pod, node string) error {
			_, err := pods.Do(ctx, pod.Namespace, pod.Name, "binding", &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
				Target:     corev1.ObjectReference{Kind: "Node", Name: node},
			})
			if err != nil {
				return fmt.Errorf("binding pod %s/%s to node %s: %w", pod.Namespace, pod.Name, node, err)
			}
			return nil
		},
	})
}
