// Package endpointslice writes the EndpointSlices of Services that have a
// selector: which addresses and ports stand behind them, and in what
// condition. It reads Services, pods, nodes and EndpointSlices and writes the
// latter. What people or other controllers manage is left alone.
//
// https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
package endpointslice

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/service"
)

// manager is the label value by which this controller's slices are known.
const manager = "endpointslice-controller.k8s.io"

// DefaultMax is how many endpoints a slice holds unless configured otherwise.
const DefaultMax = 100

type writer struct {
	client   *client.Client
	events   client.Events
	max      int
	services client.Cache[*corev1.Service]
	pods     client.Cache[*corev1.Pod]
	nodes    client.Cache[*corev1.Node]
	slices   client.Cache[*discoveryv1.EndpointSlice]

	mu       sync.Mutex
	triggers map[meta.Key]time.Time // newest cause of a change that was seen, by service
}

// New returns the endpoint slice controller; a slice holds at most maxEndpoints.
func New(c *client.Client, events client.Events, maxEndpoints int) *controller.Controller {
	s := &writer{client: c, events: events, max: maxEndpoints, triggers: map[meta.Key]time.Time{}}
	return controller.New(c, "endpointslice", &s.services, s.reconcile,
		controller.Gone(&s.services, s.gone),
		controller.Maps(&s.slices, ofService, service.SlicesByService),
		controller.Maps(&s.pods, s.selecting, pod.ByNode),
		controller.Maps(&s.nodes, s.running),
		controller.Workers(5),
		controller.Writes("discovery.k8s.io", "endpointslices", "create", "update", "delete"),
		controller.Reports(),
	)
}

func ofService(ch client.Change[*discoveryv1.EndpointSlice]) []meta.Key {
	s := ch.Object()
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" || s.Labels[discoveryv1.LabelManagedBy] != manager {
		return nil
	}
	return []meta.Key{{Namespace: s.Namespace, Name: name}}
}

// selecting wakes the services that a pod belongs to or used to belong to, if
// something has changed that endpoints tell.
func (c *writer) selecting(ch client.Change[*corev1.Pod]) (keys []meta.Key) {
	if !ch.Created && !ch.Deleted && !service.PodChanged(ch.Old, ch.New) {
		return nil
	}
	for svc := range c.services.All(ch.Object().Namespace) {
		if !ch.Created && selects(svc, ch.Old) || !ch.Deleted && selects(svc, ch.New) {
			keys = append(keys, meta.KeyOf(svc))
		}
	}
	return keys
}

func selects(svc *corev1.Service, p *corev1.Pod) bool {
	return len(svc.Spec.Selector) > 0 && labels.SelectorFromValidatedSet(svc.Spec.Selector).Matches(labels.Set(p.Labels))
}

// running wakes the services of the pods on a node that has come or gone, or
// whose zone has changed.
func (c *writer) running(ch client.Change[*corev1.Node]) (keys []meta.Key) {
	if !ch.Created && !ch.Deleted && node.Zone(ch.Old) == node.Zone(ch.New) {
		return nil
	}
	seen := map[meta.Key]bool{}
	for p := range c.pods.ByIndex(pod.ByNode.Name, ch.Object().Name) {
		for svc := range c.services.All(p.Namespace) {
			if key := meta.KeyOf(svc); !seen[key] && selects(svc, p) {
				seen[key] = true
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// gone forgets a service; the garbage collector removes its slices.
func (c *writer) gone(_ context.Context, key meta.Key) (controller.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.triggers, key)
	return controller.Result{}, nil
}

func (c *writer) reconcile(ctx context.Context, svc *corev1.Service) (controller.Result, error) {
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return controller.Result{}, nil
	}
	var existing []*discoveryv1.EndpointSlice
	for s := range c.slices.ByIndex(service.SlicesByService.Name, svc.Namespace+"/"+svc.Name) {
		if s.Labels[discoveryv1.LabelManagedBy] == manager && s.DeletionTimestamp == nil {
			existing = append(existing, s)
		}
	}
	var pods []*corev1.Pod
	for p := range c.pods.All(svc.Namespace) {
		if selects(svc, p) {
			pods = append(pods, p)
		}
	}
	p := compute(svc, pods, c.node, existing, c.max)
	trigger, newest := service.Trigger(svc, pods, c.told(svc))
	if err := c.apply(ctx, svc, p, trigger); err != nil {
		c.events.Warning(svc, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", svc.Namespace, svc.Name, err)
		return controller.Result{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.triggers[meta.KeyOf(svc)] = newest
	return controller.Result{}, nil
}

func (c *writer) node(name string) (*corev1.Node, bool) { return c.nodes.Get("", name) }

func (c *writer) told(svc *corev1.Service) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.triggers[meta.KeyOf(svc)]
}

func (c *writer) apply(ctx context.Context, svc *corev1.Service, p plan, trigger time.Time) error {
	kind := client.For[*discoveryv1.EndpointSlice](c.client)
	for _, s := range p.create {
		if svc.DeletionTimestamp != nil {
			break
		}
		stamp(s, trigger)
		_, err := kind.Create(ctx, s)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	for _, s := range p.update {
		stamp(s, trigger)
		if _, err := kind.Update(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range p.remove {
		err := kind.Delete(ctx, s.Namespace, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func stamp(s *discoveryv1.EndpointSlice, trigger time.Time) {
	if trigger.IsZero() {
		delete(s.Annotations, corev1.EndpointsLastChangeTriggerTime)
		return
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[corev1.EndpointsLastChangeTriggerTime] = trigger.UTC().Format(time.RFC3339Nano)
}
