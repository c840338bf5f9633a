package scheme

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func TestProtobufIsWhatKubernetesReads(t *testing.T) {
	want := pod("x")
	data, err := EncodeProtobuf(want)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := protobuf.NewSerializer(Known, Known).Decode(data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Spec, got.(*corev1.Pod).Spec); diff != "" {
		t.Error(diff)
	}
	back := &corev1.Pod{}
	kind, err := DecodeProtobuf(data, back)
	if err != nil || kind.Kind != "Pod" {
		t.Fatalf("DecodeProtobuf: %v, %v", kind, err)
	}
	if diff := cmp.Diff(want, back); diff != "" {
		t.Error(diff)
	}
}

func TestBodyAndKindMakeTheDocument(t *testing.T) {
	for _, obj := range []runtime.Object{pod("x"), &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}}} {
		body, err := Body(obj)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(body), `{"kind"`) {
			t.Errorf("body carries the kind: %s", body)
		}
		prefix, rest := WithKind(obj.GetObjectKind().GroupVersionKind(), body)
		want, _ := json.Marshal(obj)
		if diff := cmp.Diff(string(want), string(prefix)+string(rest)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestStrictFaultsDoNotFailTheDecoding(t *testing.T) {
	tests := []struct {
		name, in string
		decode   func([]byte, any) ([]error, error)
		want     []string
	}{
		{"unknown", `{"metadata":{"name":"x"},"spek":{}}`, DecodeJSON, []string{`unknown field "spek"`}},
		{"doubled", `{"metadata":{"name":"y","name":"x"}}`, DecodeJSON, []string{`duplicate field "metadata.name"`}},
		{"yaml", "metadata:\n  name: y\n  name: x\n", DecodeYAML, []string{`key "name" already set in map`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p corev1.Pod
			strict, err := tt.decode([]byte(tt.in), &p)
			if err != nil {
				t.Fatal(err)
			}
			if p.Name != "x" {
				t.Errorf("name = %q", p.Name)
			}
			if len(strict) != len(tt.want) || !strings.Contains(strict[0].Error(), tt.want[0]) {
				t.Errorf("strict = %v, want %v", strict, tt.want)
			}
		})
	}
}

func FuzzDecodeProtobuf(f *testing.F) {
	data, _ := EncodeProtobuf(pod("x"))
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		DecodeProtobuf(data, &corev1.Pod{})
	})
}

func BenchmarkBodyPod(b *testing.B) {
	p := pod("x")
	for b.Loop() {
		if _, err := Body(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeProtobufPod(b *testing.B) {
	p := pod("x")
	for b.Loop() {
		if _, err := EncodeProtobuf(p); err != nil {
			b.Fatal(err)
		}
	}
}
