package pod

import (
	"math/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"skiff.dev/skiff/internal/check"
)

// FuzzPod fills pods at random: nothing may panic, and defaults are a fixed point.
func FuzzPod(f *testing.F) {
	for seed := range int64(40) {
		f.Add(seed)
	}
	codecs := serializer.NewCodecFactory(clientscheme.Scheme)
	f.Fuzz(func(t *testing.T, seed int64) {
		fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), codecs)
		p, old := &corev1.Pod{}, &corev1.Pod{}
		fill.Fill(p)
		fill.Fill(old)
		raw := p.DeepCopy()
		ValidateCreate(check.NewReport(), raw)
		Default(p)
		once := p.DeepCopy()
		Default(p)
		if diff := cmp.Diff(once, p); diff != "" {
			t.Errorf("defaults are not a fixed point:\n%s", diff)
		}
		Default(old)
		for _, validate := range []func(*check.Report, *corev1.Pod, *corev1.Pod){
			ValidateUpdate, ValidateStatusUpdate, ValidateEphemeralUpdate, ValidateResize,
		} {
			validate(check.NewReport(), p.DeepCopy(), old.DeepCopy())
			same := check.NewReport()
			validate(same, p.DeepCopy(), p.DeepCopy())
			for _, e := range same.Errors() {
				if e.Field == "spec" && e.Type == "FieldValueForbidden" {
					t.Errorf("an unchanged pod counts as changed: %v", e)
				}
			}
		}
		ValidateTemplate(check.NewReport(), &corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}, nil)
		DropAlpha(&p.Spec)
		Summarize(p)
		QOSClass(p)
		Requests(p)
		Limits(p)
	})
}
