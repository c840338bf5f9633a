package core

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/resource"
)

var anyMethod = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// kinded gives an empty options object its kind, which discovery shows.
func kinded[O runtime.Object](kind string, empty func() O) func() runtime.Object {
	return func() runtime.Object {
		o := empty()
		o.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
		return o
	}
}

// proxyConnect is the proxy subresource of nodes, pods and services.
func proxyConnect[O runtime.Object](kind string, empty func() O) *resource.Connect {
	return &resource.Connect{Name: "proxy", Methods: anyMethod, Options: kinded(kind, empty), TakesPath: true}
}

var podConnects = []*resource.Connect{
	{Name: "log", Methods: []string{http.MethodGet},
		Options: kinded("PodLogOptions", func() *corev1.PodLogOptions { return &corev1.PodLogOptions{} })},
	{Name: "exec", Methods: []string{http.MethodGet, http.MethodPost},
		Options: kinded("PodExecOptions", func() *corev1.PodExecOptions { return &corev1.PodExecOptions{} })},
	{Name: "attach", Methods: []string{http.MethodGet, http.MethodPost},
		Options: kinded("PodAttachOptions", func() *corev1.PodAttachOptions { return &corev1.PodAttachOptions{} })},
	{Name: "portforward", Methods: []string{http.MethodGet, http.MethodPost},
		Options: kinded("PodPortForwardOptions", func() *corev1.PodPortForwardOptions { return &corev1.PodPortForwardOptions{} })},
	proxyConnect("PodProxyOptions", func() *corev1.PodProxyOptions { return &corev1.PodProxyOptions{} }),
}
