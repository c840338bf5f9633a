package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/proxy"
)

// services is what the proxy and the DNS of a node share: the cluster's
// Services and EndpointSlices, by name and by address.
type services struct {
	services   client.Cache[*corev1.Service]
	slices     client.Cache[*discoveryv1.EndpointSlice]
	namespaces client.Cache[*corev1.Namespace]
}

var (
	slicesByService = meta.Index{Name: discoveryv1.LabelServiceName, Keys: func(o meta.Object) []string {
		if name := o.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
			return []string{o.GetNamespace() + "/" + name}
		}
		return nil
	}}
	slicesByAddress = meta.Index{Name: "endpoints.addresses", Keys: func(o meta.Object) (ips []string) {
		for _, e := range o.(*discoveryv1.EndpointSlice).Endpoints {
			ips = append(ips, e.Addresses...)
		}
		return ips
	}}
	servicesByAddress = meta.Index{Name: "spec.clusterIPs", Keys: func(o meta.Object) []string {
		return o.(*corev1.Service).Spec.ClusterIPs
	}}
)

func openServices(ctx context.Context, c *client.Client) (s services, err error) {
	if s.services, err = client.For[*corev1.Service](c).Cache(ctx, servicesByAddress); err != nil {
		return s, err
	}
	if s.slices, err = client.For[*discoveryv1.EndpointSlice](c).Cache(ctx, slicesByService, slicesByAddress); err != nil {
		return s, err
	}
	s.namespaces, err = client.For[*corev1.Namespace](c).Cache(ctx)
	return s, err
}

// Synced implements dns.Source.
func (s services) Synced() bool {
	for _, ready := range []<-chan struct{}{s.services.Table().Ready(), s.slices.Table().Ready(), s.namespaces.Table().Ready()} {
		select {
		case <-ready:
		default:
			return false
		}
	}
	return true
}

// HasNamespace implements dns.Source.
func (s services) HasNamespace(name string) bool {
	_, ok := s.namespaces.Get("", name)
	return ok
}

// Service implements dns.Source.
func (s services) Service(namespace, name string) *corev1.Service {
	svc, _ := s.services.Get(namespace, name)
	return svc
}

// EndpointSlices implements dns.Source.
func (s services) EndpointSlices(namespace, service string) (found []*discoveryv1.EndpointSlice) {
	for slice := range s.slices.ByIndex(slicesByService.Name, namespace+"/"+service) {
		found = append(found, slice)
	}
	return found
}

// ServicesByIP implements dns.Source.
func (s services) ServicesByIP(ip string) (found []*corev1.Service) {
	for svc := range s.services.ByIndex(servicesByAddress.Name, ip) {
		found = append(found, svc)
	}
	return found
}

// EndpointSlicesByIP implements dns.Source.
func (s services) EndpointSlicesByIP(ip string) (found []*discoveryv1.EndpointSlice) {
	for slice := range s.slices.ByIndex(slicesByAddress.Name, ip) {
		found = append(found, slice)
	}
	return found
}

// proxySource is services as the proxy reads them.
type proxySource struct{ services }

// Service implements proxy.Source.
func (s proxySource) Service(k proxy.Key) *corev1.Service {
	return s.services.Service(k.Namespace, k.Name)
}

// EndpointSlices implements proxy.Source.
func (s proxySource) EndpointSlices(k proxy.Key) []*discoveryv1.EndpointSlice {
	return s.services.EndpointSlices(k.Namespace, k.Name)
}

// Follow implements proxy.Source. Changes of both kinds come through one
// channel, a batch at a time.
func (s proxySource) Follow(ctx context.Context, changed func([]proxy.Key)) error {
	if err := s.services.services.Sync(ctx); err != nil {
		return err
	}
	if err := s.slices.Sync(ctx); err != nil {
		return err
	}
	batches := make(chan batch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return follow(ctx, s.services.services, batches, keyOfService) })
	g.Go(func() error { return follow(ctx, s.slices, batches, keyOfSlice) })
	g.Go(func() error {
		var held []proxy.Key
		for waiting := 2; ; { // for the first batch of either kind: all there is
			select {
			case b := <-batches:
				held = append(held, b.keys...)
				if b.first {
					waiting--
				}
			case <-ctx.Done():
				return nil
			}
			if waiting == 0 {
				changed(held)
				held = nil
			}
		}
	})
	return g.Wait()
}

// batch is the Services that changes of one cache concern.
type batch struct {
	keys  []proxy.Key
	first bool // of its cache: all there is
}

// follow sends the keys of each batch of changes; the first batch is sent even
// if it is empty.
func follow[T meta.Object](ctx context.Context, cache client.Cache[T], batches chan<- batch, key func(T) (proxy.Key, bool)) error {
	next := batch{first: true}
	return cache.Follow(ctx, func(ch client.Change[T]) {
		if k, ok := key(ch.Object()); ok {
			next.keys = append(next.keys, k)
		}
		if ch.Created || ch.Deleted {
			return
		}
		if k, ok := key(ch.Old); ok { // a slice may have moved to another service
			next.keys = append(next.keys, k)
		}
	}, func() {
		if len(next.keys) == 0 && !next.first {
			return
		}
		select {
		case batches <- next:
		case <-ctx.Done():
		}
		next = batch{}
	})
}

func keyOfService(svc *corev1.Service) (proxy.Key, bool) { return meta.KeyOf(svc), true }

func keyOfSlice(slice *discoveryv1.EndpointSlice) (proxy.Key, bool) {
	name := slice.Labels[discoveryv1.LabelServiceName]
	return proxy.Key{Namespace: slice.Namespace, Name: name}, name != ""
}
