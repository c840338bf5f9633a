package service

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestKinds(t *testing.T) {
	no := false
	for _, tc := range []struct {
		name                                     string
		spec                                     corev1.ServiceSpec
		headless, hasIP, nodePorts, open, health bool
	}{
		{name: "plain", spec: corev1.ServiceSpec{Type: "ClusterIP", ClusterIP: "10.0.0.1"}, hasIP: true},
		{name: "with external IPs", spec: corev1.ServiceSpec{Type: "ClusterIP", ClusterIP: "10.0.0.1", ExternalIPs: []string{"1.2.3.4"}}, hasIP: true, open: true},
		{name: "headless", spec: corev1.ServiceSpec{Type: "ClusterIP", ClusterIP: "None"}, headless: true},
		{name: "elsewhere", spec: corev1.ServiceSpec{Type: "ExternalName"}},
		{name: "node port", spec: corev1.ServiceSpec{Type: "NodePort", ClusterIP: "10.0.0.1"}, hasIP: true, nodePorts: true, open: true},
		{name: "balanced", spec: corev1.ServiceSpec{Type: "LoadBalancer", ClusterIP: "10.0.0.1", ExternalTrafficPolicy: "Local"}, hasIP: true, nodePorts: true, open: true, health: true},
		{name: "balanced without ports", spec: corev1.ServiceSpec{Type: "LoadBalancer", ClusterIP: "10.0.0.1", AllocateLoadBalancerNodePorts: &no}, hasIP: true, open: true},
	} {
		s := &corev1.Service{Spec: tc.spec}
		got := []bool{IsHeadless(s), HasClusterIP(s), WantsNodePorts(s), ExternallyAccessible(s), NeedsHealthCheck(s)}
		if diff := cmp.Diff([]bool{tc.headless, tc.hasIP, tc.nodePorts, tc.open, tc.health}, got); diff != "" {
			t.Errorf("%s: headless, address, node ports, open, health check: %s", tc.name, diff)
		}
	}
}

func TestConditions(t *testing.T) {
	yes, no := true, false
	for _, tc := range []struct {
		c                           discoveryv1.EndpointConditions
		ready, serving, terminating bool
	}{
		{discoveryv1.EndpointConditions{}, true, true, false},
		{discoveryv1.EndpointConditions{Ready: &no}, false, false, false},
		{discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}, false, true, true},
	} {
		if IsReady(&tc.c) != tc.ready || IsServing(&tc.c) != tc.serving || IsTerminating(&tc.c) != tc.terminating {
			t.Errorf("%+v", tc.c)
		}
	}
}

func TestSlicesByService(t *testing.T) {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	if diff := cmp.Diff([]string{"a/web"}, SlicesByService.Keys(s)); diff != "" {
		t.Error(diff)
	}
	s.Labels = nil
	if got := SlicesByService.Keys(s); got != nil {
		t.Errorf("got %v", got)
	}
}
