package env

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sources is a namespace in memory.
type sources struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string][]byte
	services   []*v1.Service
	files      map[string]string
}

func (s sources) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	data, ok := s.configMaps[name]
	if !ok {
		return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
	}
	return &v1.ConfigMap{Data: data}, nil
}

func (s sources) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	data, ok := s.secrets[name]
	if !ok {
		return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
	}
	return &v1.Secret{Data: data}, nil
}

func (s sources) Services(_ context.Context, namespace string) ([]*v1.Service, error) {
	var out []*v1.Service
	for _, svc := range s.services {
		if svc.Namespace == namespace {
			out = append(out, svc)
		}
	}
	return out, nil
}

func (s sources) File(_ *v1.Pod, volume, path string) ([]byte, error) {
	data, ok := s.files[volume+"/"+path]
	if !ok {
		return nil, fmt.Errorf("opening: %w", os.ErrNotExist)
	}
	return []byte(data), nil
}

var world = sources{
	configMaps: map[string]map[string]string{"c": {"k": "v", "k2": "v2"}},
	secrets:    map[string]map[string][]byte{"s": {"k": []byte("secret")}},
	files:      map[string]string{"f/env": "# comment\nA='one'\nB='two\nlines' # end\n"},
}

func testPod() *v1.Pod {
	off := false
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u", Labels: map[string]string{"app": "x", "b": "y"}, Annotations: map[string]string{"a/b": "c"}},
		Spec:       v1.PodSpec{NodeName: "n1", ServiceAccountName: "sa", EnableServiceLinks: &off},
		Status:     v1.PodStatus{HostIP: "1.1.1.1", PodIP: "10.0.0.1", PodIPs: []v1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}},
	}
}

func TestMake(t *testing.T) {
	yes := true
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
	}
	amount := func(name, divisor string) *v1.EnvVarSource {
		r := &v1.ResourceFieldSelector{Resource: name}
		if divisor != "" {
			r.Divisor = resource.MustParse(divisor)
		}
		return &v1.EnvVarSource{ResourceFieldRef: r}
	}
	key := func(name, key string, optional *bool) *v1.EnvVarSource {
		return &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: name}, Key: key, Optional: optional}}
	}
	secret := func(name, key string) *v1.EnvVarSource {
		return &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: name}, Key: key}}
	}
	file := func(path, key string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "f", Path: path, Key: key}}
	}
	tests := map[string]struct {
		from []v1.EnvFromSource
		env  []v1.EnvVar
		want []Var
		err  string
	}{
		"values refer to what was set before": {
			env:  []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)-$(C)-$$(A)"}, {Name: "C", Value: "3"}},
			want: []Var{{"A", "1"}, {"B", "1-$(C)-$(A)"}, {"C", "3"}},
		},
		"a later value replaces an earlier one in place": {
			env:  []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}, {Name: "A", Value: "3"}},
			want: []Var{{"A", "3"}, {"B", "2"}},
		},
		"a whole config map, with a prefix": {
			from: []v1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "c"}}}},
			want: []Var{{"P_k", "v"}, {"P_k2", "v2"}},
		},
		"env wins over envFrom": {
			from: []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "s"}}}},
			env:  []v1.EnvVar{{Name: "k", Value: "own"}}, want: []Var{{"k", "own"}},
		},
		"a missing config map":       {from: []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "no"}}}}, err: `configmaps "no" not found`},
		"an optional one":            {from: []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "no"}, Optional: &yes}}}, want: []Var{}},
		"a key":                      {env: []v1.EnvVar{{Name: "A", ValueFrom: key("c", "k", nil)}}, want: []Var{{"A", "v"}}},
		"a missing key":              {env: []v1.EnvVar{{Name: "A", ValueFrom: key("c", "no", nil)}}, err: "couldn't find key no in ConfigMap ns/c"},
		"an optional key":            {env: []v1.EnvVar{{Name: "A", ValueFrom: key("c", "no", &yes)}}, want: []Var{}},
		"a secret's key":             {env: []v1.EnvVar{{Name: "A", ValueFrom: secret("s", "k")}}, want: []Var{{"A", "secret"}}},
		"a secret's missing key":     {env: []v1.EnvVar{{Name: "A", ValueFrom: secret("s", "no")}}, err: "couldn't find key no in Secret ns/s"},
		"a label":                    {env: []v1.EnvVar{{Name: "A", ValueFrom: field("metadata.labels['app']")}}, want: []Var{{"A", "x"}}},
		"addresses":                  {env: []v1.EnvVar{{Name: "A", ValueFrom: field("status.podIPs")}}, want: []Var{{"A", "10.0.0.1,fd00::1"}}},
		"an unknown field":           {env: []v1.EnvVar{{Name: "A", ValueFrom: field("spec.x")}}, err: "unsupported fieldPath: spec.x"},
		"CPU rounded up":             {env: []v1.EnvVar{{Name: "A", ValueFrom: amount("requests.cpu", "")}}, want: []Var{{"A", "2"}}},
		"CPU in thousandths":         {env: []v1.EnvVar{{Name: "A", ValueFrom: amount("requests.cpu", "1m")}}, want: []Var{{"A", "1500"}}},
		"a limit that is the node's": {env: []v1.EnvVar{{Name: "A", ValueFrom: amount("limits.memory", "1Mi")}}, want: []Var{{"A", "1024"}}},
		"a file's key":               {env: []v1.EnvVar{{Name: "A", ValueFrom: file("env", "B")}}, want: []Var{{"A", "two\nlines"}}},
		"a file's missing key":       {env: []v1.EnvVar{{Name: "A", ValueFrom: file("env", "C")}}, err: `environment variable key "C" not found in file "env"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := &v1.Container{Name: "main", EnvFrom: tt.from, Env: tt.env}
			c.Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}
			got, err := Make(t.Context(), world, testPod(), c, v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi")})
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("variables (-want +got):\n%s", diff)
			}
		})
	}
}

func TestServices(t *testing.T) {
	service := func(ns, name, ip string, ports ...v1.ServicePort) *v1.Service {
		return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	src := sources{services: []*v1.Service{
		service("default", "kubernetes", "10.96.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}),
		service("default", "other", "10.96.0.9", v1.ServicePort{Port: 1}),
		service("ns", "my-db", "10.96.0.2", v1.ServicePort{Port: 5432}),
		service("ns", "headless", v1.ClusterIPNone, v1.ServicePort{Port: 1}),
	}}
	p := testPod()
	api := []Var{
		{"KUBERNETES_PORT", "tcp://10.96.0.1:443"}, {"KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"},
		{"KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"}, {"KUBERNETES_PORT_443_TCP_PORT", "443"}, {"KUBERNETES_PORT_443_TCP_PROTO", "tcp"},
		{"KUBERNETES_SERVICE_HOST", "10.96.0.1"}, {"KUBERNETES_SERVICE_PORT", "443"}, {"KUBERNETES_SERVICE_PORT_HTTPS", "443"},
	}
	got, err := Make(t.Context(), src, p, &v1.Container{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(api, got); diff != "" {
		t.Errorf("without links (-want +got):\n%s", diff)
	}
	p.Spec.EnableServiceLinks = nil
	got, err = Make(t.Context(), src, p, &v1.Container{Env: []v1.EnvVar{{Name: "DB", Value: "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT)"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]Var{{"DB", "10.96.0.2:5432"}}, api...)
	want = append(want, Var{"MY_DB_PORT", "tcp://10.96.0.2:5432"}, Var{"MY_DB_PORT_5432_TCP", "tcp://10.96.0.2:5432"},
		Var{"MY_DB_PORT_5432_TCP_ADDR", "10.96.0.2"}, Var{"MY_DB_PORT_5432_TCP_PORT", "5432"}, Var{"MY_DB_PORT_5432_TCP_PROTO", "tcp"},
		Var{"MY_DB_SERVICE_HOST", "10.96.0.2"}, Var{"MY_DB_SERVICE_PORT", "5432"})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with links (-want +got):\n%s", diff)
	}
}

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) { return "<" + name + ">", name != "NO" }
	for in, want := range map[string]string{
		"plain": "plain", "$(A)": "<A>", "a$(A)b$(B)": "a<A>b<B>", "$(NO)": "$(NO)", "$$(A)": "$(A)", "$$$(A)": "$<A>", "$$$$(A)": "$$(A)",
		"$": "$", "$A": "$A", "$(A": "$(A", "a$": "a$", "$()": "<>", "$$": "$",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestFieldLines(t *testing.T) {
	got, err := Field(testPod(), "metadata.labels")
	if want := "app=\"x\"\nb=\"y\""; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte("A='1'\n"))
	f.Add([]byte("A='1\n2' # x\nB=''"))
	f.Fuzz(func(t *testing.T, data []byte) {
		vars, err := parseFile(data)
		if err != nil && vars != nil {
			t.Errorf("both variables %v and an error %v", vars, err)
		}
		for name := range vars {
			if name == "" {
				t.Error("a variable without a name")
			}
		}
	})
}
