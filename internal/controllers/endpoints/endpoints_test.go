package endpoints

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/testing/controltest"
)

func web(ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: ports},
	}
}

func backend(n int, ready bool, ports ...corev1.ContainerPort) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", n), Namespace: "default", UID: types.UID(fmt.Sprintf("u%04d", n))},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: ports}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", n/256, n%256)}}},
	}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

// text writes subsets as "ready|not ready|ports".
func text(subsets []corev1.EndpointSubset) (lines []string) {
	for _, s := range subsets {
		line := ""
		for _, a := range s.Addresses {
			line += a.IP + " "
		}
		line += "|"
		for _, a := range s.NotReadyAddresses {
			line += a.IP + " "
		}
		line += "|"
		for _, p := range s.Ports {
			line += fmt.Sprintf("%s:%d/%s ", p.Name, p.Port, p.Protocol)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestSubsetsOf(t *testing.T) {
	http := corev1.ServicePort{Name: "http", Protocol: "TCP", TargetPort: intstr.FromString("http")}
	metrics := corev1.ServicePort{Name: "metrics", Protocol: "TCP", TargetPort: intstr.FromInt32(9090)}
	named := func(n int32) corev1.ContainerPort {
		return corev1.ContainerPort{Name: "http", ContainerPort: n, Protocol: "TCP"}
	}
	headless := web()
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	published := web(metrics)
	published.Spec.PublishNotReadyAddresses = true
	tests := []struct {
		name string
		svc  *corev1.Service
		pods []*corev1.Pod
		want []string
	}{
		{"two ports, one subset", web(http, metrics), []*corev1.Pod{backend(1, true, named(80)), backend(2, false, named(80))},
			[]string{"10.0.0.1 |10.0.0.2 |http:80/TCP metrics:9090/TCP "}},
		{"named ports that differ", web(http), []*corev1.Pod{backend(1, true, named(80)), backend(2, true, named(81))},
			[]string{"10.0.0.1 ||http:80/TCP ", "10.0.0.2 ||http:81/TCP "}},
		{"no ports", headless, []*corev1.Pod{backend(1, true)}, []string{"10.0.0.1 ||"}},
		{"not ready but published", published, []*corev1.Pod{backend(1, false)}, []string{"10.0.0.1 ||metrics:9090/TCP "}},
		{"nobody", web(http), nil, nil},
		{"port not found", web(http), []*corev1.Pod{backend(1, true)}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, text(subsetsOf(tt.svc, tt.pods))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTruncate(t *testing.T) {
	for _, tt := range []struct{ ready, notReady, wantReady, wantNotReady int }{
		{900, 100, 900, 100}, {900, 200, 900, 100}, {1500, 10, 1000, 0},
	} {
		var pods []*corev1.Pod
		for n := range tt.ready + tt.notReady {
			pods = append(pods, backend(n, n < tt.ready))
		}
		subsets, truncated := truncate(subsetsOf(web(corev1.ServicePort{Protocol: "TCP", TargetPort: intstr.FromInt32(80)}), pods))
		if r, n := len(subsets[0].Addresses), len(subsets[0].NotReadyAddresses); r != tt.wantReady || n != tt.wantNotReady {
			t.Errorf("%d ready, %d not: %d and %d are left", tt.ready, tt.notReady, r, n)
		}
		if truncated != (tt.ready+tt.notReady > capacity) {
			t.Errorf("%d ready, %d not: truncated is %t", tt.ready, tt.notReady, truncated)
		}
	}
}

func TestFollowsItsService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Events))
		controltest.Create(w, web(corev1.ServicePort{Port: 80}))
		p := controltest.Create(w, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
		p = controltest.Update(w, p, controltest.Run)
		w.Settle()
		e := controltest.Get[*corev1.Endpoints](w, "default", "web")
		if diff := cmp.Diff([]string{p.Status.PodIP + " ||:80/TCP "}, text(e.Subsets)); diff != "" {
			t.Error(diff)
		}
		if e.Labels[managedBy] != manager {
			t.Errorf("labels %v", e.Labels)
		}
		controltest.Delete[*corev1.Service](w, "default", "web", "")
		w.Settle()
		if _, err := client.For[*corev1.Endpoints](w.Client).Get(t.Context(), "default", "web"); !apierrors.IsNotFound(err) {
			t.Errorf("the endpoints of a deleted service: %v", err)
		}
	})
}
