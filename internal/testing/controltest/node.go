package controltest

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
)

// Nodes is a controller that pretends to be scheduler and kubelets: it puts
// every pod on one of the nodes named node-0, node-1, …, says that it runs and
// is ready, and removes it when it is deleted.
func (w *World) Nodes(n int) *controller.Controller {
	k := &kubelets{client: w.Client, nodes: n}
	return controller.New(w.Client, "pretended-nodes", &k.pods, k.reconcile, controller.Workers(1))
}

type kubelets struct {
	client *client.Client
	nodes  int
	pods   client.Cache[*corev1.Pod]
}

func (k *kubelets) reconcile(ctx context.Context, p *corev1.Pod) (controller.Result, error) {
	pods := client.For[*corev1.Pod](k.client)
	switch {
	case p.DeletionTimestamp != nil:
		zero := int64(0)
		err := pods.Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID},
		})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return controller.Result{}, err
	case p.Spec.NodeName == "":
		_, err := pods.Do(ctx, p.Namespace, p.Name, "binding", &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: fmt.Sprintf("node-%d", number(p, k.nodes))},
		})
		return controller.Result{}, err
	case p.Status.Phase == corev1.PodPending:
		p = meta.Copy(p)
		Run(p)
		_, err := pods.UpdateStatus(ctx, p)
		return controller.Result{}, err
	}
	return controller.Result{}, nil
}

func number(p *corev1.Pod, of int) int {
	h := fnv.New32a()
	h.Write([]byte(p.UID)) // never fails
	return int(h.Sum32()) % of
}

// Run changes p's status to running and ready, with an address made of its uid.
func Run(p *corev1.Pod) {
	at := metav1.NewTime(time.Now().Truncate(time.Second))
	p.Status.Phase = corev1.PodRunning
	n := number(p, 1<<16)
	p.Status.PodIP = fmt.Sprintf("10.244.%d.%d", n>>8, n&255)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	pod.SetCondition(&p.Status, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at})
}
