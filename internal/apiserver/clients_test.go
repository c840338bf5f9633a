package apiserver_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"skiff.dev/skiff/internal/apiserver"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/testing/apitest"
)

func deployment(name string) *appsv1.Deployment {
	l := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}
}

// await is how long a test waits for what should come at once.
const await = 10 * time.Second

// TestTypedClient goes once through all verbs, in both encodings.
func TestTypedClient(t *testing.T) {
	api := apitest.StartTLS(t)
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			cfg := api.Config(apitest.Admin)
			cfg.ContentType = media
			c := kubernetes.NewForConfigOrDie(cfg).AppsV1().Deployments("default")
			ctx := t.Context()
			d, err := c.Create(ctx, deployment("web"), metav1.CreateOptions{})
			if err != nil || d.Generation != 1 || d.UID == "" || *d.Spec.Replicas != 1 {
				t.Fatalf("create: %v %+v", err, d)
			}
			if _, err := c.Create(ctx, deployment("web"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
				t.Errorf("second create: %v", err)
			}
			err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
				d, err := c.Get(ctx, "web", metav1.GetOptions{})
				if err != nil {
					return err
				}
				d.Spec.Template.Spec.Containers[0].Image = "j"
				_, err = c.Update(ctx, d, metav1.UpdateOptions{})
				return err
			})
			if err != nil {
				t.Fatalf("update: %v", err)
			}
			if d, err = c.Patch(ctx, "web", types.StrategicMergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}); err != nil || d.Generation != 3 {
				t.Fatalf("patch: %v, generation %d", err, d.Generation)
			}
			d.Status.ObservedGeneration = 3
			if d, err = c.UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil || d.Status.ObservedGeneration != 3 || d.Generation != 3 {
				t.Fatalf("status: %v %+v", err, d.Status)
			}
			s, err := c.GetScale(ctx, "web", metav1.GetOptions{})
			if err != nil || s.Spec.Replicas != 3 || s.Status.Selector != "app=web" {
				t.Fatalf("scale: %v %+v", err, s)
			}
			s.Spec.Replicas = 5
			if s, err = c.UpdateScale(ctx, "web", s, metav1.UpdateOptions{}); err != nil || s.Spec.Replicas != 5 {
				t.Fatalf("scale: %v", err)
			}
			list, err := c.List(ctx, metav1.ListOptions{Limit: 1})
			if err != nil || len(list.Items) != 1 || list.ResourceVersion == "" || *list.Items[0].Spec.Replicas != 5 {
				t.Fatalf("list: %v, %d items", err, len(list.Items))
			}
			if err := c.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=web"}); err != nil {
				t.Fatalf("deletecollection: %v", err)
			}
			if _, err := c.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("after deletion: %v", err)
			}
		})
	}
}

// TestPaging: a list in pages is the list as of its first page.
func TestPaging(t *testing.T) {
	api := apitest.StartTLS(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).CoreV1().ConfigMaps("default")
	ctx := t.Context()
	for i := range 10 {
		if _, err := c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%d", i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	opts := metav1.ListOptions{Limit: 3}
	version := ""
	for {
		page, err := c.List(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		if version == "" {
			version = page.ResourceVersion
			if err := c.Delete(ctx, "m9", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if page.ResourceVersion != version {
			t.Errorf("page at %s, the first at %s", page.ResourceVersion, version)
		}
		for _, m := range page.Items {
			names = append(names, m.Name)
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			break
		}
		if left := page.RemainingItemCount; left == nil || *left != int64(10-len(names)) {
			t.Errorf("after %d: remaining %v", len(names), left)
		}
	}
	if len(names) != 10 || !slices.IsSorted(names) {
		t.Errorf("pages hold %v", names)
	}
	exact, err := c.List(ctx, metav1.ListOptions{ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil || len(exact.Items) != 10 || exact.ResourceVersion != version {
		t.Errorf("exact: %v, %d items at %s", err, len(exact.Items), exact.ResourceVersion)
	}
}

// seen is what an informer told.
type seen struct {
	mu     sync.Mutex
	events []string
	more   chan struct{}
}

func (s *seen) add(kind string, obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	s.mu.Lock()
	s.events = append(s.events, kind+" "+obj.(metav1.Object).GetName())
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// wait returns once the informer has told of event.
func (s *seen) wait(t *testing.T, event string) {
	t.Helper()
	late := time.After(await)
	for {
		s.mu.Lock()
		found := slices.Contains(s.events, event)
		have := slices.Clone(s.events)
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-s.more:
		case <-late:
			t.Fatalf("no %q among %q", event, have)
		}
	}
}

// TestInformer follows configmaps through a client-go informer, by a list and
// by a watch that starts with the list (KEP-3157).
func TestInformer(t *testing.T) {
	api := apitest.StartTLS(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin))
	ctx := t.Context()
	maps := c.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "first"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace("default"))
	informer := factory.Core().V1().ConfigMaps().Informer()
	told := &seen{more: make(chan struct{}, 1)}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { told.add("add", o) }, UpdateFunc: func(_, o any) { told.add("update", o) }, DeleteFunc: func(o any) { told.add("delete", o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	defer func() { stop(); factory.Shutdown() }()
	factory.WaitForCacheSync(ctx.Done())
	told.wait(t, "add first")
	second, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "second"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	told.wait(t, "add second")
	second.Data = map[string]string{"a": "b"}
	if _, err := maps.Update(ctx, second, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	told.wait(t, "update second")
	api.HTTP.CloseClientConnections() // the watch breaks and is taken up again
	if err := maps.Delete(ctx, "first", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		if err = maps.Delete(ctx, "first", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	told.wait(t, "delete first")
	listed, err := factory.Core().V1().ConfigMaps().Lister().List(labels.Everything())
	if err != nil || len(listed) != 1 || listed[0].Data["a"] != "b" {
		t.Errorf("cache: %v %v", err, listed)
	}
}

// TestWatchTooOld: what was before a compaction is a 410, upon which a
// reflector lists anew.
func TestWatchTooOld(t *testing.T) {
	api := apitest.StartTLS(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).CoreV1().ConfigMaps("default")
	ctx := t.Context()
	for i := range 5 {
		if _, err := c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	rev, err := api.Store.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Store.Compact(ctx, rev); err != nil {
		t.Fatal(err)
	}
	_, err = c.List(ctx, metav1.ListOptions{ResourceVersion: "2", ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("exact list before the compaction: %v", err)
	}
	// A server that starts now has no memory of what was before.
	young := apitest.StartTLS(t, func(c *controlplane.Config) { c.Store = api.Store })
	w, err := kubernetes.NewForConfigOrDie(young.Config(apitest.Admin)).CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: "2"})
	if err == nil {
		defer w.Stop()
		e := <-w.ResultChan()
		err = apierrors.FromObject(e.Object)
	}
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("watch before the compaction: %v", err)
	}
}

// TestIdleWatchLivesOn: the time that a slow reader gets is not one in which
// something must happen. HTTP/2 resets streams whose deadline has passed.
func TestIdleWatchLivesOn(t *testing.T) {
	synctest.Test(t, idleWatchLivesOn)
}

func idleWatchLivesOn(t *testing.T) {
	api := apitest.StartPipe(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).CoreV1().ConfigMaps("default")
	w, err := c.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 2 {
		if _, err := c.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if e := <-w.ResultChan(); e.Type != "ADDED" {
			t.Fatalf("event %d: %v", i, e)
		}
		select {
		case e, open := <-w.ResultChan():
			t.Fatalf("the idle watch told %v (open: %v)", e, open)
		case <-time.After(4 * apiserver.WriteWait):
		}
	}
}

// TestDynamicClients: what kubectl and the garbage collector are made with.
func TestDynamicClients(t *testing.T) {
	api := apitest.StartTLS(t)
	cfg := api.Config(apitest.Admin)
	ctx := t.Context()
	gvr := appsv1.SchemeGroupVersion.WithResource("deployments")
	c := dynamic.NewForConfigOrDie(cfg).Resource(gvr).Namespace("default")
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(deployment("web"))
	if err != nil {
		t.Fatal(err)
	}
	raw["apiVersion"], raw["kind"] = "apps/v1", "Deployment"
	got, err := c.Create(ctx, &unstructured.Unstructured{Object: raw}, metav1.CreateOptions{})
	if err != nil || got.GetKind() != "Deployment" {
		t.Fatalf("create: %v %v", err, got)
	}
	list, err := c.List(ctx, metav1.ListOptions{})
	if err != nil || list.GetKind() != "DeploymentList" || len(list.Items) != 1 {
		t.Fatalf("list: %v %v", err, list)
	}
	m := metadata.NewForConfigOrDie(cfg).Resource(gvr).Namespace("default")
	partial, err := m.Get(ctx, "web", metav1.GetOptions{})
	if err != nil || partial.UID != got.GetUID() {
		t.Fatalf("metadata: %v %+v", err, partial)
	}
	metas, err := m.List(ctx, metav1.ListOptions{})
	if err != nil || len(metas.Items) != 1 || metas.Items[0].Name != "web" {
		t.Fatalf("metadata list: %v %+v", err, metas)
	}
	w, err := m.Watch(ctx, metav1.ListOptions{ResourceVersion: metas.ResourceVersion, AllowWatchBookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := c.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := <-w.ResultChan(); e.Type != "DELETED" || e.Object.(*metav1.PartialObjectMetadata).Name != "web" {
		t.Errorf("metadata watch: %v", e)
	}
}

// TestServerSideApply: two managers share an object, and a third is refused
// what one of them owns.
func TestServerSideApply(t *testing.T) {
	api := apitest.StartTLS(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).AppsV1().Deployments("default")
	ctx := t.Context()
	web := applyapps.Deployment("web", "default").WithSpec(applyapps.DeploymentSpec().WithReplicas(2).
		WithSelector(applymeta.LabelSelector().WithMatchLabels(map[string]string{"a": "b"})).
		WithTemplate(applycore.PodTemplateSpec().WithLabels(map[string]string{"a": "b"}).
			WithSpec(applycore.PodSpec().WithContainers(applycore.Container().WithName("c").WithImage("i")))))
	d, err := c.Apply(ctx, web, metav1.ApplyOptions{FieldManager: "one"})
	if err != nil || *d.Spec.Replicas != 2 {
		t.Fatalf("apply: %v", err)
	}
	again, err := c.Apply(ctx, web, metav1.ApplyOptions{FieldManager: "one"})
	if err != nil || again.ResourceVersion != d.ResourceVersion {
		t.Errorf("the same again: %v, version %s after %s", err, again.ResourceVersion, d.ResourceVersion)
	}
	replicas := applyapps.Deployment("web", "default").WithSpec(applyapps.DeploymentSpec().WithReplicas(5))
	_, err = c.Apply(ctx, replicas, metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) || err.Error() != `Apply failed with 1 conflict: conflict with "one": .spec.replicas` {
		t.Errorf("conflict: %v", err)
	}
	if d, err = c.Apply(ctx, replicas, metav1.ApplyOptions{FieldManager: "two", Force: true}); err != nil || *d.Spec.Replicas != 5 {
		t.Errorf("forced: %v", err)
	}
	extracted, err := applyapps.ExtractDeployment(d, "two")
	if err != nil || extracted.Spec == nil || extracted.Spec.Replicas == nil || extracted.Spec.Template != nil {
		t.Errorf("what two owns: %v %+v", err, extracted)
	}
	web.Spec.Replicas = nil
	web.Spec.Template.Spec.Containers[0].WithEnv(applycore.EnvVar().WithName("x").WithValue("y"))
	if d, err = c.Apply(ctx, web, metav1.ApplyOptions{FieldManager: "one"}); err != nil || *d.Spec.Replicas != 5 || len(d.Spec.Template.Spec.Containers[0].Env) != 1 {
		t.Errorf("without replicas: %v %+v", err, d.Spec)
	}
	status := applyapps.Deployment("web", "default").WithStatus(applyapps.DeploymentStatus().WithReplicas(4))
	if d, err = c.ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: "three"}); err != nil || d.Status.Replicas != 4 || *d.Spec.Replicas != 5 {
		t.Errorf("status: %v %+v", err, d.Status)
	}
	subs := map[string]string{}
	for _, m := range d.ManagedFields {
		subs[m.Manager] = string(m.Operation) + " " + m.Subresource
	}
	if want := map[string]string{"one": "Apply ", "two": "Apply ", "three": "Apply status"}; !maps.Equal(subs, want) {
		t.Errorf("managers %v, want %v", subs, want)
	}
}

// TestDiscovery: both forms say the same, and the documents can be parsed by
// the clients of today and of before 1.27.
func TestDiscovery(t *testing.T) {
	api := apitest.StartTLS(t)
	cfg := api.Config(apitest.Admin)
	aggregated := discovery.NewDiscoveryClientForConfigOrDie(cfg)
	_, lists, err := aggregated.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	legacy := discovery.NewDiscoveryClientForConfigOrDie(cfg)
	legacy.UseLegacyDiscovery = true
	_, plain, err := legacy.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	names := func(lists []*metav1.APIResourceList) (all []string) {
		for _, l := range lists {
			for _, r := range l.APIResources {
				all = append(all, fmt.Sprint(l.GroupVersion, r.Name, r.Namespaced, r.Kind, r.Verbs, r.ShortNames))
			}
		}
		slices.Sort(all)
		return all
	}
	if a, b := names(lists), names(plain); len(a) < 50 || !equality.Semantic.DeepEqual(a, b) {
		t.Errorf("aggregated: %q\nplain: %q", a, b)
	}
	doc, err := aggregated.OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	models := 0
	for _, d := range doc.Definitions.AdditionalProperties {
		if d.Name == "io.k8s.api.apps.v1.Deployment" || d.Name == "io.k8s.api.core.v1.Pod" {
			models++
		}
	}
	if models != 2 || doc.Swagger != "2.0" {
		t.Errorf("openapi v2: %d models, %q", models, doc.Swagger)
	}
	paths, err := aggregated.OpenAPIV3().Paths()
	if err != nil || paths["apis/apps/v1"] == nil || paths["api/v1"] == nil {
		t.Fatalf("openapi v3: %v %v", err, paths)
	}
	for path, gv := range paths {
		if data, err := gv.Schema("application/json"); err != nil || len(data) < 1000 {
			t.Errorf("%s: %v, %d bytes", path, err, len(data))
		}
	}
	for _, path := range []string{"/api", "/apis", "/openapi/v2", "/openapi/v3/api/v1"} {
		etag := conditional(t, api, path, "").Get("Etag")
		if etag == "" || conditional(t, api, path, etag) != nil {
			t.Errorf("%s: ETag %s is not honoured", path, etag)
		}
	}
}

// conditional asks for path unless it is etag still; nil means it is.
func conditional(t *testing.T, api *apitest.API, path, etag string) http.Header {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", api.HTTP.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apitest.Admin)
	req.Header.Set("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := api.HTTP.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return nil
	}
	return resp.Header
}
