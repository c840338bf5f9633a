package fieldmanager

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"pgregory.net/rapid"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
)

// kinds are those whose writes are compared; between them they have every
// shape of the schema.
var kinds = []schema.GroupVersionKind{
	{Version: "v1", Kind: "Pod"}, {Version: "v1", Kind: "Node"}, {Version: "v1", Kind: "Service"}, {Version: "v1", Kind: "ConfigMap"},
	{Version: "v1", Kind: "Secret"}, {Version: "v1", Kind: "ServiceAccount"}, {Version: "v1", Kind: "Event"}, {Version: "v1", Kind: "Namespace"},
	{Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "apps", Version: "v1", Kind: "StatefulSet"}, {Group: "batch", Version: "v1", Kind: "Job"},
	{Group: "events.k8s.io", Version: "v1", Kind: "Event"}, {Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"},
	{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"}, {Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}, {Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"},
	{Group: "apps", Version: "v1", Kind: "ControllerRevision"},
}

func kindOf(gvk schema.GroupVersionKind, view string) Kind {
	k := Kind{GVK: gvk, Subresource: view, Default: func(meta.Object) {}, New: func() meta.Object {
		obj, err := scheme.Known.New(gvk)
		if err != nil {
			panic(err)
		}
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		return obj.(meta.Object)
	}}
	switch view {
	case "":
		k.Reset = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	case "status":
		k.Reset = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
	}
	return k
}

// filler fills values with what is drawn.
type filler struct {
	t *rapid.T
	// rare is how seldom a field is touched: one in so many.
	rare int
}

func (f filler) one(in int) bool { return rapid.IntRange(1, in).Draw(f.t, "one in") == 1 }

var words = []string{"", "a", "b", "c", "app.kubernetes.io/name", "TCP", "x-y.z"}

func (f filler) word() string {
	if f.one(40) {
		return rapid.SampledFrom([]string{`"`, `a\b`, "<a>", "ü", "a\nb", "&"}).Draw(f.t, "odd")
	}
	return rapid.SampledFrom(words).Draw(f.t, "word")
}

// special fills types that JSON shows in a way of their own.
func (f filler) special(v reflect.Value) bool {
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		p.Time = time.Unix(int64(rapid.IntRange(0, 3).Draw(f.t, "time")), 0)
	case *metav1.MicroTime:
		p.Time = time.Unix(int64(rapid.IntRange(0, 3).Draw(f.t, "time")), 1000)
	case *metav1.Duration:
		p.Duration = time.Duration(rapid.IntRange(0, 3).Draw(f.t, "time"))
	case *apiresource.Quantity:
		*p = apiresource.MustParse(rapid.SampledFrom([]string{"1", "1000m", "2Gi", "2048Mi", "0"}).Draw(f.t, "quantity"))
	case *intstr.IntOrString:
		*p = rapid.SampledFrom([]intstr.IntOrString{intstr.FromInt32(1), intstr.FromString("1"), intstr.FromString("http")}).Draw(f.t, "port")
	case *metav1.FieldsV1, *[]metav1.ManagedFieldsEntry, *metav1.TypeMeta:
	default:
		return strings.Contains(v.Type().PkgPath(), "pkg/runtime") // left empty
	}
	return true
}

func (f filler) fill(v reflect.Value, depth int) {
	if depth > 9 || f.special(v) {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f.one(f.rare) || v.Type().Field(i).Anonymous || v.Kind() == reflect.Struct && f.one(2) && f.rare > 2 {
				f.fill(v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		if f.one(4) {
			v.SetZero()
			return
		}
		next := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			next.Elem().Set(v.Elem())
		}
		f.fill(next.Elem(), depth+1)
		v.Set(next)
	case reflect.Slice:
		f.slice(v, depth)
	case reflect.Map:
		f.mapping(v, depth)
	case reflect.String:
		v.SetString(f.word())
	case reflect.Bool:
		v.SetBool(f.one(2))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rapid.IntRange(0, 3).Draw(f.t, "number")))
	}
}

func (f filler) slice(v reflect.Value, depth int) {
	n := rapid.IntRange(-1, 3).Draw(f.t, "length")
	if n < 0 {
		v.SetZero()
		return
	}
	next := reflect.MakeSlice(v.Type(), n, n)
	reflect.Copy(next, v)
	if v.Type().Elem().Kind() != reflect.Uint8 {
		for i := range n {
			f.fill(next.Index(i), depth+1)
		}
	}
	v.Set(next)
}

func (f filler) mapping(v reflect.Value, depth int) {
	n := rapid.IntRange(-1, 3).Draw(f.t, "size")
	if n < 0 {
		v.SetZero()
		return
	}
	next := reflect.MakeMap(v.Type())
	for it := v.MapRange(); it.Next(); {
		if !f.one(3) {
			next.SetMapIndex(it.Key(), it.Value())
		}
	}
	for range n {
		elem := reflect.New(v.Type().Elem()).Elem()
		f.fill(elem, depth+1)
		next.SetMapIndex(reflect.ValueOf(f.word()).Convert(v.Type().Key()), elem)
	}
	v.Set(next)
}

// object fills all of an object but what its writer does not choose.
func (f filler) object(k Kind, old meta.Object) meta.Object {
	obj := meta.Copy(old)
	f.fill(reflect.ValueOf(obj).Elem(), 0)
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	obj.SetName("a")
	obj.SetUID(types.UID("u"))
	obj.SetManagedFields(old.GetManagedFields())
	return obj
}

// past makes the entries look old, so that one sees which are renewed.
func past(obj meta.Object) {
	entries := obj.GetManagedFields()
	for i := range entries {
		entries[i].Time = &metav1.Time{Time: time.Unix(int64(1000+i), 0).UTC()}
	}
}

// told is what entries say, the times reduced to whether they are new.
func told(obj meta.Object) map[string]string {
	out := map[string]string{}
	for _, e := range obj.GetManagedFields() {
		renewed := e.Time != nil && e.Time.Unix() > 1_000_000
		out[fmt.Sprint(e.Manager, e.Operation, e.APIVersion, e.Subresource)] = fmt.Sprint(renewed, e.FieldsType, e.FieldsV1.GetRawString())
	}
	return out
}

func applied(t *rapid.T, m *Managers, k Kind, obj meta.Object) meta.Object {
	u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "a", "labels": map[string]any{"a": "b"}}}}
	u.SetGroupVersionKind(k.GVK)
	got, err := m.Apply(k, obj, u, "applier", true)
	if err != nil {
		t.Skip("cannot be applied to:", err) // duplicates that an update may make
	}
	return got
}

// The quick way must record what structured-merge-diff records, or leave the
// write to it.
func TestQuickRecordsTheSame(t *testing.T) {
	quickly, slowly := New(), checking()
	done, all := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		gvk := rapid.SampledFrom(kinds).Draw(t, "kind")
		k := kindOf(gvk, "")
		old := k.New()
		if _, known := quickly.types().(*trusting).known(gvk); !known {
			if _, err := quickly.Update(k, k.New(), k.New(), "warm"); err != nil {
				t.Fatal(err)
			}
		}
		fill := filler{t, rapid.IntRange(2, 4).Draw(t, "sparse")}
		for i := range 4 {
			view := ""
			if i > 0 {
				view = rapid.SampledFrom([]string{"", "", "status", "scale"}).Draw(t, "view")
				fill.rare = 8
			}
			k := kindOf(gvk, view)
			manager := rapid.SampledFrom([]string{"one", "two", ""}).Draw(t, "manager")
			obj := fill.object(k, old)
			want, err := slowly.Update(k, meta.Copy(old), meta.Copy(obj), manager)
			if err != nil {
				t.Fatal(err)
			}
			all++
			before := meta.Copy(old)
			if quickly.usual(k, old, obj, manager) {
				done++
				if diff := cmp.Diff(told(want), told(obj)); diff != "" {
					t.Fatalf("write %d of a %s through %q by %q: (-slow +quick)\n%s", i, gvk, view, manager, diff)
				}
			}
			if !reflect.DeepEqual(before, old) {
				t.Fatal("the old object was changed")
			}
			old = want
			if i == 1 && fill.one(3) {
				old = applied(t, slowly, k, old)
			}
			past(old)
		}
	})
	t.Logf("%d of %d writes recorded the quick way", done, all)
	if done < all/3 {
		t.Errorf("only %d of %d writes were recorded the quick way", done, all)
	}
}

// What clients write every day must go the quick way.
func TestQuickIsUsual(t *testing.T) {
	m, k := New(), kindOf(podKind().GVK, "")
	if _, err := m.Update(k, k.New(), k.New(), "warm"); err != nil {
		t.Fatal(err)
	}
	old := k.New()
	for i, change := range []func(*corev1.Pod){
		func(*corev1.Pod) {},
		func(p *corev1.Pod) { p.Spec.Containers[0].Image = "b" },
		func(p *corev1.Pod) { p.Labels, p.Spec.NodeName = nil, "n" },
		func(p *corev1.Pod) { p.Finalizers = []string{"b", "a"} },
	} {
		next := pod(change)
		next.UID = "u"
		next.ManagedFields = old.GetManagedFields()
		if !m.usual(k, old, next, fmt.Sprint("manager", i%2)) {
			t.Errorf("write %d took the long way", i)
		}
		old = next
	}
}

func TestQuickLeavesTheUnusual(t *testing.T) {
	m, k := New(), kindOf(podKind().GVK, "")
	if _, err := m.Update(k, k.New(), k.New(), "warm"); err != nil {
		t.Fatal(err)
	}
	entry := func(manager, version, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: version,
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
		}
	}
	var many []metav1.ManagedFieldsEntry
	for i := range maxUpdaters {
		many = append(many, entry(fmt.Sprint(i), "v1", `{"f:spec":{"f:nodeName":{}}}`))
	}
	for name, entries := range map[string][]metav1.ManagedFieldsEntry{
		"other version": {entry("a", "v2", `{"f:spec":{}}`)},
		"no fields":     {entry("a", "v1", `{}`)},
		"not JSON":      {entry("a", "v1", `{`)},
		"twice":         {entry("a", "v1", `{"f:spec":{}}`), entry("a", "v1", `{"f:spec":{}}`)},
		"reset":         {{}},
		"too many":      many,
		"below a leaf":  {entry("a", "v1", `{"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{"f:command":{"f:x":{}}}}}}`)},
	} {
		old := pod(func(p *corev1.Pod) { p.UID, p.ManagedFields = "u", entries })
		next := pod(func(p *corev1.Pod) { p.UID, p.ManagedFields, p.Spec.Hostname = "u", entries, "h" })
		if m.usual(k, old, next, "new") {
			t.Errorf("%s: was recorded the quick way", name)
		}
	}
}

// Entries that were written in another way come out as structured-merge-diff
// writes them.
func TestQuickRewritesText(t *testing.T) {
	m, k := New(), kindOf(podKind().GVK, "")
	if _, err := m.Update(k, k.New(), k.New(), "warm"); err != nil {
		t.Fatal(err)
	}
	odd := []metav1.ManagedFieldsEntry{{
		Manager: "a", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{ "f:spec": {"f:nodeName":{}, "f:hostname":{}} }`),
	}}
	old := pod(func(p *corev1.Pod) { p.UID, p.ManagedFields = "u", odd })
	next := pod(func(p *corev1.Pod) { p.UID, p.ManagedFields = "u", odd })
	if !m.usual(k, old, next, "new") {
		t.Fatal("took the long way")
	}
	if got, want := next.ManagedFields[0].FieldsV1.GetRawString(), `{"f:spec":{"f:hostname":{},"f:nodeName":{}}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// slow returns managers that know no quick way, only that of checking nothing.
func slow() *Managers {
	m := New()
	trusted := m.types
	m.types = func() managedfields.TypeConverter { return struct{ managedfields.TypeConverter }{trusted()} }
	return m
}

func BenchmarkCreate(b *testing.B) {
	k := kindOf(podKind().GVK, "")
	for name, m := range map[string]*Managers{"slow": slow(), "quick": New()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Update(k, k.New(), pod(func(*corev1.Pod) {}), "bench"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkChange(b *testing.B) {
	k := kindOf(podKind().GVK, "")
	for name, m := range map[string]*Managers{"slow": slow(), "quick": New()} {
		b.Run(name, func(b *testing.B) {
			old, err := m.Update(k, k.New(), pod(func(*corev1.Pod) {}), "bench")
			if err != nil {
				b.Fatal(err)
			}
			old.SetUID("u")
			b.ReportAllocs()
			for b.Loop() {
				next := pod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "b"; p.UID = "u" })
				next.ManagedFields = old.GetManagedFields()
				if _, err := m.Update(k, old, next, "bench"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
