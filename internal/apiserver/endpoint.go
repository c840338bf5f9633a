package apiserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
)

// serviceAddress picks a ready endpoint of the service's port at random. The
// port may be a number, a name, or empty if there is only one.
func (c *call) serviceAddress(svc *corev1.Service, port string) (string, error) {
	name, err := portName(svc, port)
	if err != nil {
		return "", err
	}
	var found []string
	res, ok := c.s.engine.ByGroupResource(schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"})
	if ok {
		for item := range res.Table().Snapshot().All(svc.Namespace, meta.Key{}) {
			slice := item.Object.(*discoveryv1.EndpointSlice)
			if slice.Labels[discoveryv1.LabelServiceName] == svc.Name {
				found = append(found, readyAddresses(slice, name)...)
			}
		}
	}
	if len(found) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", svc.Name))
	}
	return found[rand.IntN(len(found))], nil
}

func portName(svc *corev1.Service, port string) (string, error) {
	if port == "" && len(svc.Spec.Ports) == 1 {
		return svc.Spec.Ports[0].Name, nil
	}
	for _, p := range svc.Spec.Ports {
		if port != "" && (p.Name == port || strconv.Itoa(int(p.Port)) == port) {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, svc.Name))
}

func readyAddresses(slice *discoveryv1.EndpointSlice, port string) (found []string) {
	for _, p := range slice.Ports {
		if p.Port == nil || p.Name == nil || *p.Name != port {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				found = append(found, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return found
}
