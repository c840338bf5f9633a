package apiserver_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"skiff.dev/skiff/internal/testing/apitest"
)

// TestOneEventInTwoGroups: events.k8s.io shows and changes the core group's
// objects in every form of request.
func TestOneEventInTwoGroups(t *testing.T) {
	api := apitest.Start(t)
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			cfg := api.Config(apitest.Admin)
			cfg.ContentType = media
			c := kubernetes.NewForConfigOrDie(cfg)
			ctx := t.Context()
			name := "e" + t.Name()[len(t.Name())-4:]
			watching, err := c.EventsV1().Events("default").Watch(ctx, metav1.ListOptions{FieldSelector: "regarding.name=web"})
			if err != nil {
				t.Fatal(err)
			}
			defer watching.Stop()
			_, err = c.CoreV1().Events("default").Create(ctx, &corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{Name: name, Namespace: "default"},
				InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web", Namespace: "default"}, Message: "hello", Reason: "Tried", Type: "Normal",
				EventTime: metav1.NowMicro(), ReportingController: "skiff.dev/test", ReportingInstance: "i", Action: "Try",
			}, metav1.CreateOptions{FieldManager: "core"})
			if err != nil {
				t.Fatal(err)
			}
			select {
			case e := <-watching.ResultChan():
				if got, ok := e.Object.(*eventsv1.Event); !ok || got.Note != "hello" {
					t.Fatalf("watch: %s %T %v", e.Type, e.Object, e.Object)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no event on the watch")
			}
			got, err := c.EventsV1().Events("default").Get(ctx, name, metav1.GetOptions{})
			if err != nil || got.Note != "hello" || got.Regarding.Name != "web" {
				t.Fatalf("get: %v %+v", err, got)
			}
			list, err := c.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=web,reason=Tried"})
			if err != nil || len(list.Items) == 0 {
				t.Fatalf("list: %v, %d items", err, len(list.Items))
			}
			got, err = c.EventsV1().Events("default").Patch(ctx, name, types.StrategicMergePatchType,
				[]byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{FieldManager: "new"})
			if err != nil || got.Labels["a"] != "b" {
				t.Fatalf("patch: %v", err)
			}
			apply := `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"` + name + `","annotations":{"x":"y"}}}`
			if _, err = c.EventsV1().Events("default").Patch(ctx, name, types.ApplyPatchType, []byte(apply), metav1.PatchOptions{FieldManager: "applier"}); err != nil {
				t.Fatalf("apply: %v", err)
			}
			seen, err := c.CoreV1().Events("default").Get(ctx, name, metav1.GetOptions{})
			if err != nil || seen.Labels["a"] != "b" || seen.Annotations["x"] != "y" || seen.Message != "hello" {
				t.Fatalf("core: %v %+v", err, seen)
			}
			versions := map[string]string{}
			for _, m := range seen.ManagedFields {
				versions[m.Manager] = m.APIVersion
			}
			if versions["core"] != "v1" || versions["new"] != "events.k8s.io/v1" || versions["applier"] != "events.k8s.io/v1" {
				t.Errorf("managed fields: %v", versions)
			}
			table, err := c.EventsV1().RESTClient().Get().AbsPath("/apis/events.k8s.io/v1/namespaces/default/events/"+name).
				SetHeader("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").Do(ctx).Raw()
			if err != nil || !strings.Contains(string(table), `"pod/web"`) {
				t.Errorf("table: %v %s", err, table)
			}
			if err := c.EventsV1().Events("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Fatalf("delete: %v", err)
			}
		})
	}
	if keys := storedKeys(t, api, "/registry/events/"); len(keys) > 0 {
		t.Errorf("left behind: %v", keys)
	}
}

// TestNewEventIsStoredAsCore: what is written through events.k8s.io lies in
// the store in the core group's form, as upstream's etcd has it.
func TestNewEventIsStoredAsCore(t *testing.T) {
	api := apitest.Start(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin))
	_, err := c.EventsV1().Events("default").Create(t.Context(), &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Namespace: "default"}, EventTime: metav1.NowMicro(),
		ReportingController: "skiff.dev/test", ReportingInstance: "i", Action: "Do", Reason: "Done", Type: "Normal", Note: "text",
		Regarding: corev1.ObjectReference{Namespace: "default", Name: "web"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kv, found, _, err := api.Store.Get(t.Context(), "/registry/events/default/n", 0)
	if err != nil || !found {
		t.Fatalf("not stored: %v", err)
	}
	var stored corev1.Event
	if kind := decodeStored(t, kv.Value, &stored); kind.Group != "" || stored.Message != "text" {
		data, _ := json.Marshal(&stored)
		t.Errorf("stored as %s: %s", kind, data)
	}
}
