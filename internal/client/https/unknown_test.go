package https_test

import (
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

var widgets = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

func widget(name, version string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid"), ResourceVersion: version},
	}
}

// foreign answers as upstream's API server does for a custom resource: what is
// asked for as metadata comes as protobuf, everything else as JSON.
type foreign struct{ t *testing.T }

func (f foreign) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accept := r.Header.Get("Accept")
	whole := r.URL.Path == "/apis/example.com/v1/widgets"
	switch {
	case r.Method == http.MethodDelete:
		w.Header().Set("Content-Type", scheme.JSON)
		_, _ = w.Write([]byte(`{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"one"},"spec":{}}`))
	case r.URL.Query().Has("watch") && strings.Contains(accept, "as=PartialObjectMetadata;"):
		f.watch(w, r)
	case whole && strings.Contains(accept, "as=PartialObjectMetadataList;"):
		f.write(w, &metav1.PartialObjectMetadataList{
			TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "5"}, Items: []metav1.PartialObjectMetadata{*widget("one", "4")},
		})
	case !whole && strings.Contains(accept, "as=PartialObjectMetadata;"):
		f.write(w, widget("one", "6"))
	default:
		f.t.Errorf("%s %s asked for %q", r.Method, r.URL, accept)
		w.WriteHeader(http.StatusNotAcceptable)
	}
}

func (f foreign) encode(obj runtime.Object) []byte {
	data, err := scheme.EncodeProtobuf(obj)
	if err != nil {
		f.t.Error(err)
	}
	return data
}

func (f foreign) write(w http.ResponseWriter, obj runtime.Object) {
	w.Header().Set("Content-Type", scheme.Protobuf)
	_, _ = w.Write(f.encode(obj))
}

func (f foreign) watch(w http.ResponseWriter, r *http.Request) {
	event := metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: f.encode(widget("two", "7"))}}
	data, err := event.Marshal()
	if err != nil {
		f.t.Error(err)
	}
	w.Header().Set("Content-Type", scheme.Protobuf+";stream=watch")
	_, _ = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// Of kinds that are not compiled in the metadata can be followed, read and
// changed, and the objects deleted: what the garbage collector does.
func TestKindsOfOthersComeAsMetadata(t *testing.T) {
	srv := httptest.NewTLSServer(foreign{t})
	defer srv.Close()
	tr, err := https.New(&rest.Config{Host: srv.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	table, err := tr.Table(t.Context(), widgets, watchcache.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	<-table.Ready()
	snap, w, err := table.WatchFromSnapshot(watchcache.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var names []string
	for item := range snap.In(watchcache.Scope{}) {
		names = append(names, item.Object.GetName())
	}
	for len(names) < 2 {
		events, _, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			names = append(names, e.Item.Object.GetName())
		}
	}
	if got := strings.Join(names, " "); got != "one two" {
		t.Errorf("followed %q", got)
	}
	ref := client.Ref{GroupVersionResource: widgets, Namespace: "default", Name: "one"}
	got := must[meta.Object](t)(tr.Get(t.Context(), ref, metav1.GetOptions{}))
	if got.GetUID() != "one-uid" {
		t.Errorf("got %+v", got)
	}
	got = must[meta.Object](t)(tr.Patch(t.Context(), ref, types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}))
	if got.GetResourceVersion() != "6" {
		t.Errorf("patched %+v", got)
	}
	if _, err := tr.Delete(t.Context(), ref, metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete: %v", err)
	}
}
