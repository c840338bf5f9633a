package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/testing/apitest"
)

// fast is the server as it runs: without the check of immutability.
func fast(c *controlplane.Config) { c.VerifyImmutability = false }

func benchPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func fill(b *testing.B, api *apitest.API, n int) *verbs.Resource {
	b.Helper()
	res, _ := api.Plane.Engine.Resource(corev1.SchemeGroupVersion.WithResource("configmaps"))
	for i := range n {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i), Namespace: "default"}, Data: map[string]string{"a": strings.Repeat("x", 500)}}
		if _, err := res.Create(b.Context(), m, verbs.WriteOptions{Manager: "bench"}); err != nil {
			b.Fatal(err)
		}
	}
	return res
}

// BenchmarkCreatePod is the engine's work for one pod, store in memory.
func BenchmarkCreatePod(b *testing.B) {
	api := apitest.Start(b, fast)
	ctx := b.Context()
	accounts, _ := api.Plane.Engine.Resource(corev1.SchemeGroupVersion.WithResource("serviceaccounts"))
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}}
	if _, err := accounts.Create(ctx, sa, verbs.WriteOptions{}); err != nil {
		b.Fatal(err)
	}
	pods, _ := api.Plane.Engine.Resource(corev1.SchemeGroupVersion.WithResource("pods"))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if _, err := pods.Create(ctx, benchPod(fmt.Sprint("p", i)), verbs.WriteOptions{Manager: "bench"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList10k lists 10,000 objects over HTTP.
func BenchmarkList10k(b *testing.B) {
	api := apitest.Start(b, fast)
	fill(b, api, 10000)
	for _, media := range []string{jsonType, protoTyp} {
		b.Run(media[strings.LastIndex(media, ".")+1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), "GET", api.HTTP.URL+mapsPath+"?resourceVersion=0", nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+apitest.Admin)
				req.Header.Set("Accept", media)
				req.Header.Set("Accept-Encoding", "identity")
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					b.Fatal(err, resp.StatusCode)
				}
				b.SetBytes(n)
			}
		})
	}
}

// BenchmarkGet gets one object over HTTP.
func BenchmarkGet(b *testing.B) {
	api := apitest.Start(b, fast)
	fill(b, api, 1)
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequestWithContext(b.Context(), "GET", api.HTTP.URL+mapsPath+"/m0?resourceVersion=0", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+apitest.Admin)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			b.Fatal(err, resp.StatusCode)
		}
	}
}
