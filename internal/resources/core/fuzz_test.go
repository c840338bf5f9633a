package core_test

import (
	"math/rand"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/resources/coordination"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/resources/discovery"
	"skiff.dev/skiff/internal/resources/events"
	"skiff.dev/skiff/internal/resources/node"
	"skiff.dev/skiff/internal/resources/scheduling"
)

func definitions() []resource.Any {
	return []resource.Any{
		resource.Of(core.Bindings(nil)), resource.Of(core.ConfigMap), resource.Of(core.Endpoints), resource.Of(core.Event),
		resource.Of(core.Namespace), resource.Of(core.Node), resource.Of(core.Pods(nil)), resource.Of(core.PodTemplate),
		resource.Of(core.Secret), resource.Of(core.ServiceAccounts(nil)), resource.Of(core.Services(core.ServiceConfig{})),
		resource.Of(coordination.Lease), resource.Of(discovery.EndpointSlice), resource.Of(events.New(time.Hour)),
		resource.Of(node.RuntimeClass), resource.Of(scheduling.PriorityClass),
	}
}

// FuzzDefinitions fills objects of every kind at random and takes them through
// what a create, an update and a write of each view do with them: nothing may
// panic, defaults are a fixed point, and the stored object is not changed.
func FuzzDefinitions(f *testing.F) {
	for seed := range int64(20) {
		f.Add(seed)
	}
	codecs := serializer.NewCodecFactory(clientscheme.Scheme)
	f.Fuzz(func(t *testing.T, seed int64) {
		fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), codecs)
		for _, d := range definitions() {
			kind := d.Info().Name.Kind
			obj, old := d.New(), d.New()
			fill.Fill(obj)
			fill.Fill(old)
			d.Validate(check.NewReport(), meta.Copy(obj), nil)

			d.Default(obj)
			once := meta.Copy(obj)
			d.Default(obj)
			if diff := cmp.Diff(once, obj); diff != "" {
				t.Errorf("%s: defaults are not a fixed point:\n%s", kind, diff)
			}

			created := meta.Copy(obj)
			d.KeepViews(created, nil)
			d.Prepare(t.Context(), created, nil)
			d.Validate(check.NewReport(), created, nil)

			before := meta.Copy(old)
			updated := meta.Copy(obj)
			d.KeepViews(updated, old)
			d.Default(updated)
			d.Prepare(t.Context(), updated, old)
			d.Validate(check.NewReport(), updated, old)
			for _, name := range d.Info().Views {
				v, through := d.View(name), meta.Copy(obj)
				v.Reset(through, old)
				d.Default(through)
				v.Prepare(t.Context(), through, old)
				v.Validate(check.NewReport(), through, old)
			}
			d.SpecChanged(obj, old)
			if diff := cmp.Diff(before, old); diff != "" {
				t.Errorf("%s: the stored object was changed:\n%s", kind, diff)
			}

			d.Cells(obj)
			d.SelectableFields(obj)
			d.Claims(obj)
			d.Grace(obj, nil)
			d.Held(obj)
			d.TTL(obj)
			d.BeginDeletion(obj)
		}
	})
}
