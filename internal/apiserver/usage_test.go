package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metrics "k8s.io/metrics/pkg/client/clientset/versioned"

	"skiff.dev/skiff/internal/testing/apitest"
)

// statistics answers as the kubelet of a node on which the pods run, each with
// one container "c". Everything has used three quarters of a core since the
// test began.
func statistics(pods ...string) http.Handler {
	start := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		stamp := time.Now().UnixMilli()
		cpu, began := float64(stamp-start.UnixMilli())*0.75/1000, start.Add(-time.Hour).Unix()
		fmt.Fprintf(w, "node_cpu_usage_seconds_total %f %d\nnode_memory_working_set_bytes 3145728 %d\n", cpu, stamp, stamp)
		for _, name := range pods {
			labels := fmt.Sprintf(`{container="c",namespace="default",pod=%q}`, name)
			fmt.Fprintf(w, "container_cpu_usage_seconds_total%s %f %d\n", labels, cpu, stamp)
			fmt.Fprintf(w, "container_memory_working_set_bytes%s 3145728 %d\n", labels, stamp)
			fmt.Fprintf(w, "container_start_time_seconds%s %d\n", labels, began)
		}
	})
}

func runs(t *testing.T, c *rest.Config, name string, labels map[string]string) {
	t.Helper()
	pods := kubernetes.NewForConfigOrDie(c).CoreV1().Pods("default")
	p, err := pods.Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		p, err = pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	p.Status.Phase = corev1.PodRunning
	if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func names[T any](items []T, of func(*T) string) string {
	var out []string
	for i := range items {
		out = append(out, of(&items[i]))
	}
	return strings.Join(out, " ")
}

func ofPod(p *metricsv1beta1.PodMetrics) string   { return p.Name }
func ofNode(n *metricsv1beta1.NodeMetrics) string { return n.Name }

// TestUsageByClient reads metrics.k8s.io with its own client, which is what
// kubectl top and the horizontal pod autoscaler use.
func TestUsageByClient(t *testing.T) {
	api := withPod(t, statistics("p", "q", "not-running", "not-in-the-cluster"))
	cfg := api.Config(apitest.Admin)
	runs(t, cfg, "p", nil)
	runs(t, cfg, "q", map[string]string{"app": "web"})
	runs(t, cfg, "without-numbers", nil)
	c := metrics.NewForConfigOrDie(cfg).MetricsV1beta1()
	ctx := t.Context()

	n, err := c.NodeMetricses().Get(ctx, "node", metav1.GetOptions{})
	if err != nil || n.Usage.Cpu().MilliValue() != 750 || n.Usage.Memory().String() != "3Mi" || n.Window.Duration < time.Second || n.Window.Duration > time.Minute || n.Timestamp.IsZero() || n.CreationTimestamp.IsZero() {
		t.Errorf("node: %v %+v", err, n)
	}
	p, err := c.PodMetricses("default").Get(ctx, "q", metav1.GetOptions{})
	if err != nil || len(p.Containers) != 1 || p.Containers[0].Name != "c" || p.Containers[0].Usage.Cpu().MilliValue() != 750 || p.Labels["app"] != "web" {
		t.Errorf("pod: %v %+v", err, p)
	}
	for options, want := range map[metav1.ListOptions]string{
		{}:                                  "p q",
		{LabelSelector: "app=web"}:          "q",
		{LabelSelector: "app!=web"}:         "p",
		{LabelSelector: "app=none"}:         "",
		{FieldSelector: "metadata.name=p"}:  "p",
		{FieldSelector: "metadata.name!=p"}: "q",
		{Limit: 1}:                          "p q",
	} {
		l, err := c.PodMetricses("").List(ctx, options)
		if err != nil || names(l.Items, ofPod) != want || l.ResourceVersion != "" || l.Continue != "" {
			t.Errorf("%+v: %v %+v", options, err, l)
		}
	}
	if l, err := c.PodMetricses("kube-system").List(ctx, metav1.ListOptions{}); err != nil || len(l.Items) != 0 {
		t.Errorf("another namespace: %v %+v", err, l)
	}
	if l, err := c.NodeMetricses().List(ctx, metav1.ListOptions{}); err != nil || names(l.Items, ofNode) != "node" {
		t.Errorf("nodes: %v %+v", err, l)
	}
	_, err = c.PodMetricses("default").Get(ctx, "without-numbers", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) || err.Error() != `pods.metrics.k8s.io "without-numbers" not found` {
		t.Errorf("a pod without numbers: %v", err)
	}
	if _, err = c.NodeMetricses().Get(ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("no such node: %v", err)
	}
	if _, err := c.PodMetricses("default").Watch(ctx, metav1.ListOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("watch: %v", err)
	}
}

// TestUsageOverHTTP looks at what the client does not show.
func TestUsageOverHTTP(t *testing.T) {
	api := withPod(t, statistics("p"))
	runs(t, api.Config(apitest.Admin), "p", nil)
	ask := func(token, method, path, accept string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, api.HTTP.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Accept", accept)
		resp, err := api.HTTP.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	const root, table = "/apis/metrics.k8s.io/v1beta1", "application/json;as=Table;v=v1;g=meta.k8s.io"
	for _, c := range []struct {
		token, method, path, accept string
		code                        int
		wants                       []string
	}{
		{apitest.Admin, "GET", root, "application/json", 200, []string{
			`"name":"nodes","singularName":"nodemetrics","namespaced":false,"kind":"NodeMetrics","verbs":["get","list"]`,
			`"name":"pods","singularName":"podmetrics","namespaced":true,"kind":"PodMetrics","verbs":["get","list"]`}},
		{apitest.Admin, "GET", root + "/pods", table, 200, []string{`"name":"cpu"`, `"name":"memory"`, `"name":"Window"`, `"cells":["p","750m","3Mi","`}},
		{apitest.Admin, "GET", root + "/nodes/node", table, 200, []string{`"cells":["node","750m","3Mi","`}},
		{apitest.Admin, "GET", root + "/pods", "application/json", 200, []string{`"kind":"PodMetricsList"`, `"metadata":{}`, `"usage":{"cpu":"750m","memory":"3Mi"}`}},
		{apitest.Admin, "GET", "/openapi/v3" + root, "application/json", 200, []string{`"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}"`, `PodMetricsList`}},
		{apitest.Admin, "POST", root + "/namespaces/default/pods", "application/json", 405, nil},
		{apitest.Admin, "DELETE", root + "/namespaces/default/pods", "application/json", 405, nil},
		{apitest.Admin, "DELETE", root + "/nodes/node", "application/json", 405, nil},
		{apitest.Admin, "GET", root + "/pods?watch=true", "application/json", 405, nil},
		{apitest.Admin, "GET", root + "/pods?continue=x", "application/json", 400, []string{"one page"}},
		{apitest.Alice, "GET", root + "/nodes", "application/json", 403, []string{`cannot list resource \"nodes\" in API group \"metrics.k8s.io\"`}},
	} {
		code, body := ask(c.token, c.method, c.path, c.accept)
		if code != c.code {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, body)
		}
		for _, want := range c.wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s %s: no %s in %s", c.method, c.path, want, body)
			}
		}
	}
	if _, body := ask(apitest.Admin, "GET", "/openapi/v3"+root, "application/json"); strings.Contains(body, `"delete"`) || strings.Contains(body, `"post"`) {
		t.Error("the document tells of verbs that there are not")
	}
}
