// Package endpoints writes the older form of endpoints, one Endpoints object
// per Service that has a selector, for clients that do not read EndpointSlices
// yet. It reads Services, pods and Endpoints and writes the latter.
//
// https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoints-v1/
package endpoints

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/service"
)

// The label by which this controller's objects are known.
const (
	managedBy = "endpoints.kubernetes.io/managed-by"
	manager   = "endpoint-controller"
)

type writer struct {
	client    *client.Client
	events    client.Events
	services  client.Cache[*corev1.Service]
	pods      client.Cache[*corev1.Pod]
	endpoints client.Cache[*corev1.Endpoints] //nolint:staticcheck // still served

	mu       sync.Mutex
	triggers map[meta.Key]time.Time // newest cause of a change that was seen, by service
}

// New returns the endpoints controller.
func New(c *client.Client, events client.Events) *controller.Controller {
	w := &writer{client: c, events: events, triggers: map[meta.Key]time.Time{}}
	return controller.New(c, "endpoints", &w.services, w.reconcile,
		controller.Gone(&w.services, w.gone),
		controller.Maps(&w.endpoints, func(ch client.Change[*corev1.Endpoints]) []meta.Key { //nolint:staticcheck // still served
			if e := ch.Object(); ch.Deleted || e.Labels[managedBy] == manager {
				return []meta.Key{meta.KeyOf(e)}
			}
			return nil
		}),
		controller.Maps(&w.pods, w.selecting),
		controller.Workers(5),
		controller.Writes("", "endpoints", "create", "update", "delete"),
		controller.Reports(),
	)
}

// selecting wakes the services that a pod belongs to or used to belong to, if
// something has changed that endpoints tell.
func (w *writer) selecting(ch client.Change[*corev1.Pod]) (keys []meta.Key) {
	if !ch.Created && !ch.Deleted && !service.PodChanged(ch.Old, ch.New) {
		return nil
	}
	for svc := range w.services.All(ch.Object().Namespace) {
		if !ch.Created && selects(svc, ch.Old) || !ch.Deleted && selects(svc, ch.New) {
			keys = append(keys, meta.KeyOf(svc))
		}
	}
	return keys
}

func selects(svc *corev1.Service, p *corev1.Pod) bool {
	return len(svc.Spec.Selector) > 0 && labels.SelectorFromValidatedSet(svc.Spec.Selector).Matches(labels.Set(p.Labels))
}

// gone deletes the endpoints of a service that is gone.
func (w *writer) gone(ctx context.Context, key meta.Key) (controller.Result, error) {
	w.mu.Lock()
	delete(w.triggers, key)
	w.mu.Unlock()
	e, ok := w.endpoints.Get(key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	err := client.For[*corev1.Endpoints](w.client).Delete(ctx, key.Namespace, key.Name, metav1.DeleteOptions{ //nolint:staticcheck // still served
		Preconditions: &metav1.Preconditions{UID: &e.UID},
	})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return controller.Result{}, err
}

func (w *writer) reconcile(ctx context.Context, svc *corev1.Service) (controller.Result, error) {
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return controller.Result{}, nil
	}
	var pods []*corev1.Pod
	for p := range w.pods.All(svc.Namespace) {
		if selects(svc, p) {
			pods = append(pods, p)
		}
	}
	subsets, truncated := truncate(subsetsOf(svc, pods))
	w.mu.Lock()
	trigger, newest := service.Trigger(svc, pods, w.triggers[meta.KeyOf(svc)])
	w.mu.Unlock()
	if err := w.write(ctx, svc, subsets, truncated, trigger); err != nil {
		return controller.Result{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.triggers[meta.KeyOf(svc)] = newest
	return controller.Result{}, nil
}

func (w *writer) write(ctx context.Context, svc *corev1.Service, subsets []corev1.EndpointSubset, truncated bool, trigger time.Time) error { //nolint:staticcheck // still served
	kind := client.For[*corev1.Endpoints](w.client) //nolint:staticcheck // still served
	have, exists := w.endpoints.Get(svc.Namespace, svc.Name)
	if !exists {
		have = &corev1.Endpoints{ //nolint:staticcheck // still served
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"},
			ObjectMeta: metav1.ObjectMeta{Name: svc.Name, Namespace: svc.Namespace},
		}
	}
	labels := labelsOf(svc)
	_, wasTruncated := have.Annotations[corev1.EndpointsOverCapacity]
	if exists && maps.Equal(have.Labels, labels) && wasTruncated == truncated && equality.Semantic.DeepEqual(have.Subsets, subsets) {
		return nil
	}
	want := meta.Copy(have)
	want.Labels, want.Subsets = labels, subsets
	annotate(want, corev1.EndpointsOverCapacity, map[bool]string{true: "truncated"}[truncated])
	annotate(want, corev1.EndpointsLastChangeTriggerTime, "")
	if !trigger.IsZero() {
		annotate(want, corev1.EndpointsLastChangeTriggerTime, trigger.UTC().Format(time.RFC3339Nano))
	}
	if exists {
		_, err := kind.Update(ctx, want)
		if err != nil {
			w.events.Warning(want, "FailedToUpdateEndpoint", "Failed to update endpoint %s/%s: %v", svc.Namespace, svc.Name, err)
		}
		return err
	}
	_, err := kind.Create(ctx, want)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case err != nil:
		w.events.Warning(svc, "FailedToCreateEndpoint", "Failed to create endpoint for service %s/%s: %v", svc.Namespace, svc.Name, err)
	}
	return err
}

func annotate(o metav1.Object, key, value string) {
	m := maps.Clone(o.GetAnnotations())
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	if value == "" {
		delete(m, key)
	}
	o.SetAnnotations(m)
}

func labelsOf(svc *corev1.Service) map[string]string {
	l := maps.Clone(svc.Labels)
	if l == nil {
		l = map[string]string{}
	}
	delete(l, corev1.IsHeadlessService)
	if service.IsHeadless(svc) {
		l[corev1.IsHeadlessService] = ""
	}
	l[managedBy] = manager
	return l
}
