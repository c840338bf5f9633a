package apiserver_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff.dev/skiff/internal/testing/apitest"
)

// TestControllerRuntime: a manager of controller-runtime elects itself and
// keeps a ConfigMap for each Deployment.
func TestControllerRuntime(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	api := apitest.StartTLS(t)
	m, err := ctrl.NewManager(api.Config(apitest.Admin), manager.Options{
		LeaderElection: true, LeaderElectionID: "test", LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true,
		Metrics:    server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: new(true)}, // with -count, the name is there already
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 16)
	err = ctrl.NewControllerManagedBy(m).For(&appsv1.Deployment{}).Owns(&corev1.ConfigMap{}).Complete(reconcile.Func(
		func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
			d := &appsv1.Deployment{}
			if err := m.GetClient().Get(ctx, req.NamespacedName, d); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: d.Name + "-owned", Namespace: d.Namespace}}
			_, err := controllerutil.CreateOrUpdate(ctx, m.GetClient(), c, func() error {
				c.Data = map[string]string{"image": d.Spec.Template.Spec.Containers[0].Image}
				return controllerutil.SetControllerReference(d, c, m.GetScheme())
			})
			if err != nil {
				return reconcile.Result{}, err
			}
			d.Status.ObservedGeneration = d.Generation
			if err := m.GetClient().Status().Update(ctx, d); err != nil {
				return reconcile.Result{}, err
			}
			done <- c.Data["image"]
			return reconcile.Result{}, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Start(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	}()
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin))
	d, err := c.AppsV1().Deployments("default").Create(ctx, deployment("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wait := func(image string) {
		t.Helper()
		late := time.After(await)
		for {
			select {
			case got := <-done:
				if got == image {
					return
				}
			case <-late:
				t.Fatalf("image %q was not reconciled", image)
			}
		}
	}
	wait("i")
	owned, err := c.CoreV1().ConfigMaps("default").Get(ctx, "web-owned", metav1.GetOptions{})
	if err != nil || !metav1.IsControlledBy(owned, d) {
		t.Fatalf("%v %+v", err, owned)
	}
	if _, err := c.AppsV1().Deployments("default").Patch(ctx, "web", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"j"}]}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	wait("j")
	lease, err := c.CoordinationV1().Leases("default").Get(ctx, "test", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		t.Errorf("lease: %v %+v", err, lease.Spec)
	}
}
