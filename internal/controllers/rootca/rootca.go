// Package rootca puts the certificate of the cluster's CA into every
// namespace, as ConfigMap kube-root-ca.crt, by which pods verify the API
// server. It reads namespaces and ConfigMaps and writes the latter.
package rootca

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
)

// The ConfigMap, its key, and the annotation by which upstream tells people
// to leave it alone.
const (
	name        = "kube-root-ca.crt"
	key         = "ca.crt"
	descriptor  = "kubernetes.io/description"
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

type publisher struct {
	client     *client.Client
	data       map[string]string
	namespaces client.Cache[*corev1.Namespace]
	maps       client.Cache[*corev1.ConfigMap]
}

// New returns the controller that publishes ca, in PEM.
func New(c *client.Client, ca []byte) *controller.Controller {
	p := &publisher{client: c, data: map[string]string{key: string(ca)}}
	return controller.New(c, "root-ca-certificate-publisher", &p.namespaces, p.reconcile,
		controller.Maps(&p.maps, func(ch client.Change[*corev1.ConfigMap]) []meta.Key {
			if o := ch.Object(); o.Name == name {
				return []meta.Key{{Name: o.Namespace}}
			}
			return nil
		}),
		controller.Workers(1),
		controller.Writes("", "configmaps", "create", "update"),
	)
}

func (p *publisher) reconcile(ctx context.Context, ns *corev1.Namespace) (controller.Result, error) {
	if ns.Status.Phase != corev1.NamespaceActive {
		return controller.Result{}, nil
	}
	kind := client.For[*corev1.ConfigMap](p.client)
	have, ok := p.maps.Get(ns.Name, name)
	var err error
	switch {
	case !ok:
		_, err = kind.Create(ctx, &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns.Name, Annotations: map[string]string{descriptor: description}},
			Data:       p.data,
		})
	case !maps.Equal(have.Data, p.data) || have.Annotations[descriptor] != description || len(have.BinaryData) > 0:
		have = meta.Copy(have)
		have.Data, have.BinaryData = p.data, nil
		if have.Annotations == nil {
			have.Annotations = map[string]string{}
		}
		have.Annotations[descriptor] = description
		_, err = kind.Update(ctx, have)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil
	}
	return controller.Result{}, err
}
