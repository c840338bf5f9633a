package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/authz/rbac/bootstrap"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resources/scheduling"
)

// parallel is how many bootstrap objects are written at once: the store joins
// concurrent writes into one sync of its log.
const parallel = 32

// Bootstrap makes what every cluster has from the start: system namespaces,
// the default policy, the system priority classes, the service "kubernetes",
// and whom other servers may believe.
// What is there already is brought up to date or left alone.
func (cp *ControlPlane) Bootstrap(ctx context.Context) error {
	c := cp.self()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		g.Go(func() error {
			return ensure(gctx, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil)
		})
	}
	for _, pc := range scheduling.SystemClasses() {
		g.Go(func() error { return ensure(gctx, c, pc, nil) })
	}
	policy := bootstrap.Default()
	cp.addOwnPolicy(policy)
	for _, want := range policy.ClusterRoles {
		g.Go(func() error { return ensure(gctx, c, want, reconciled(rbac.ReconcileClusterRole, want)) })
	}
	for _, want := range policy.ClusterRoleBindings {
		g.Go(func() error { return ensure(gctx, c, want, reconciled(rbac.ReconcileClusterRoleBinding, want)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := cp.bootstrapNamespaced(ctx, c, policy); err != nil {
		return err
	}
	if err := cp.policyKnown(ctx); err != nil {
		return fmt.Errorf("waiting until the policy holds: %w", err)
	}
	close(cp.ready)
	return nil
}

// policyKnown waits until the authorizer has heard of all that has been written:
// the parts that start next have no rights before.
func (cp *ControlPlane) policyKnown(ctx context.Context) error {
	rev, err := cp.cfg.Store.Revision(ctx)
	if err != nil {
		return err
	}
	if err := cp.Engine.Table(rbac.ClusterRoles).WaitFor(ctx, rev); err != nil {
		return err
	}
	return cp.feeds.caughtUp(ctx)
}

// bootstrapNamespaced makes what lives in the system namespaces.
func (cp *ControlPlane) bootstrapNamespaced(ctx context.Context, c *client.Client, policy *bootstrap.Policy) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, want := range policy.Roles {
		g.Go(func() error { return ensure(ctx, c, want, reconciled(rbac.ReconcileRole, want)) })
	}
	for _, want := range policy.RoleBindings {
		g.Go(func() error { return ensure(ctx, c, want, reconciled(rbac.ReconcileRoleBinding, want)) })
	}
	g.Go(func() error { return cp.publishTrust(ctx, c) })
	if cp.cfg.Advertise.IsValid() {
		g.Go(func() error { return cp.bootstrapService(ctx, c) })
	}
	if cp.cfg.ClusterDNS.IsValid() {
		g.Go(func() error { return ensure(ctx, c, dnsService(cp.cfg.ClusterDNS), nil) })
	}
	return g.Wait()
}

// An update says what is to become of an object that is there already.
type update[T meta.Object] func(have T) (T, rbac.Step)

func reconciled[T meta.Object](reconcile func(want, have T) (T, rbac.Step), want T) update[T] {
	return func(have T) (T, rbac.Step) { return reconcile(want, have) }
}

// ensure creates want, or brings what there is to what update makes of it.
func ensure[T meta.Object](ctx context.Context, c *client.Client, want T, update update[T]) error {
	for {
		err := ensureOnce(ctx, client.For[T](c), want, update)
		if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || errors.Is(err, errAgain) {
			continue // another server of this cluster is doing the same
		}
		if err != nil {
			return fmt.Errorf("making %T %s: %w", want, want.GetName(), err)
		}
		return nil
	}
}

var errAgain = errors.New("deleted, to be made again")

func ensureOnce[T meta.Object](ctx context.Context, kind client.Kind[T], want T, update update[T]) error {
	have, err := kind.Get(ctx, want.GetNamespace(), want.GetName())
	if apierrors.IsNotFound(err) {
		_, err := kind.Create(ctx, want)
		return err
	}
	if err != nil || update == nil {
		return err
	}
	switch changed, step := update(have); step {
	case rbac.Update:
		_, err = kind.Update(ctx, changed)
	case rbac.Recreate: // a binding's roleRef cannot change
		if err = kind.Delete(ctx, have.GetNamespace(), have.GetName(), metav1.DeleteOptions{}); err == nil {
			return errAgain
		}
	}
	return err
}

// bootstrapService makes the service by which pods reach the API server, and
// its endpoints.
func (cp *ControlPlane) bootstrapService(ctx context.Context, c *client.Client) error {
	name := metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault}
	labels := map[string]string{"component": "apiserver", "provider": "kubernetes"}
	svc := &corev1.Service{ObjectMeta: name, Spec: corev1.ServiceSpec{
		ClusterIP:       cp.cfg.Services.CIDRs[0].Masked().Addr().Next().String(),
		SessionAffinity: corev1.ServiceAffinityNone,
		Type:            corev1.ServiceTypeClusterIP,
		Ports: []corev1.ServicePort{{
			Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(cp.cfg.Advertise.Port())),
		}},
	}}
	svc.Labels = labels
	if err := ensure(ctx, c, svc, nil); err != nil {
		return err
	}
	port, proto, portName := int32(cp.cfg.Advertise.Port()), corev1.ProtocolTCP, "https"
	address := cp.cfg.Advertise.Addr().String()
	eps := &corev1.Endpoints{ObjectMeta: name, Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // still served
		Addresses: []corev1.EndpointAddress{{IP: address}},
		Ports:     []corev1.EndpointPort{{Name: portName, Port: port, Protocol: proto}},
	}}}
	eps.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	err := ensure(ctx, c, eps, func(have *corev1.Endpoints) (*corev1.Endpoints, rbac.Step) { //nolint:staticcheck // still served
		if equality.Semantic.DeepEqual(have.Subsets, eps.Subsets) {
			return have, rbac.Keep
		}
		have = meta.Copy(have)
		have.Subsets = eps.Subsets
		return have, rbac.Update
	})
	if err != nil {
		return err
	}
	family := discoveryv1.AddressTypeIPv4
	if cp.cfg.Advertise.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	ready := true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: name, AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:     []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &proto}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: name.Name}
	return ensure(ctx, c, slice, func(have *discoveryv1.EndpointSlice) (*discoveryv1.EndpointSlice, rbac.Step) {
		if equality.Semantic.DeepEqual(have.Endpoints, slice.Endpoints) && equality.Semantic.DeepEqual(have.Ports, slice.Ports) {
			return have, rbac.Keep
		}
		have = meta.Copy(have)
		have.Endpoints, have.Ports = slice.Endpoints, slice.Ports
		return have, rbac.Update
	})
}

// dnsService is how pods find the cluster's DNS. Every node answers on its
// address itself, so it has no endpoints and the proxies leave it alone.
func dnsService(ip netip.Addr) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kube-dns", Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", proxyLabel: "skiff-dns"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: ip.String(),
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53},
			},
		},
	}
}

// proxyLabel names the proxy of a Service that is not the node's usual one.
const proxyLabel = "service.kubernetes.io/service-proxy-name"
