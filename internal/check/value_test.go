package check

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func texts(r *Report) []string {
	var out []string
	for _, e := range r.Errors() {
		out = append(out, e.Error())
	}
	return out
}

func TestPaths(t *testing.T) {
	for _, tc := range []struct {
		rule func(*Report, string)
		path string
		want []string
	}{
		{(*Report).RelativePath, "a/b", nil},
		{(*Report).RelativePath, "/a", []string{`p: Invalid value: "/a": must be a relative path`}},
		{(*Report).RelativePath, "a/../b", []string{`p: Invalid value: "a/../b": must not contain '..'`}},
		{(*Report).RelativePath, "a..b", nil},
		{(*Report).RelativePath, "..data", nil},
		{(*Report).FileName, "..data", []string{`p: Invalid value: "..data": must not start with '..'`}},
		{(*Report).FileName, "../x", []string{`p: Invalid value: "../x": must not contain '..'`}},
	} {
		r := NewReport()
		tc.rule(r.At("p"), tc.path)
		if diff := cmp.Diff(tc.want, texts(r)); diff != "" {
			t.Errorf("%s: %s", tc.path, diff)
		}
	}
}

func TestOneOf(t *testing.T) {
	r := NewReport()
	allowed := []string{"b", "a"}
	OneOf(r.At("f"), "c", allowed...)
	RequiredOneOf(r.At("f"), "", allowed...)
	RequiredOneOf(r.At("f"), "b", allowed...)
	want := []string{`f: Unsupported value: "c": supported values: "a", "b"`, "f: Required value"}
	if diff := cmp.Diff(want, texts(r)); diff != "" {
		t.Error(diff)
	}
	if allowed[0] != "b" {
		t.Error("the caller's list was sorted")
	}
}

func TestEndpointIP(t *testing.T) {
	for ip, want := range map[string][]string{
		"10.1.1.1":         nil,
		"fd00::1":          nil,
		"127.0.0.1":        {`ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`},
		"0.0.0.0":          {`ip: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)`},
		"fe80::1":          {`ip: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`},
		"224.0.0.1":        {`ip: Invalid value: "224.0.0.1": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)`},
		"nope":             {`ip: Invalid value: "nope": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		"010.1.1.1":        {`ip: Invalid value: "010.1.1.1": must not have leading 0s`},
		"::ffff:127.0.0.1": {`ip: Invalid value: "::ffff:127.0.0.1": must not be an IPv4-mapped IPv6 address`, `ip: Invalid value: "::ffff:127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`},
	} {
		r := NewReport()
		r.At("ip").EndpointIP(ip)
		if diff := cmp.Diff(want, texts(r)); diff != "" {
			t.Errorf("%s: %s", ip, diff)
		}
	}
	r := NewReport()
	r.At("ip").IP("010.1.1.1", "010.1.1.1")
	if r.Failed() {
		t.Errorf("a stored address is refused: %v", r.Errors())
	}
}

func TestObjectMeta(t *testing.T) {
	for _, tc := range []struct {
		name       string
		meta       metav1.ObjectMeta
		namespaced bool
		rule       NameRule
		want       []string
	}{
		{"valid", metav1.ObjectMeta{Name: "a", Namespace: "b"}, true, DNSSubdomain, nil},
		{"no name", metav1.ObjectMeta{Namespace: "b"}, true, DNSSubdomain, []string{"metadata.name: Required value: name or generateName is required"}},
		{"no namespace", metav1.ObjectMeta{Name: "a"}, true, DNSSubdomain, []string{"metadata.namespace: Required value"}},
		{"namespace on a cluster's object", metav1.ObjectMeta{Name: "a", Namespace: "b"}, false, DNSSubdomain,
			[]string{"metadata.namespace: Forbidden: not allowed on this type"}},
		{"path", metav1.ObjectMeta{Name: "a/b"}, false, PathSegment, []string{`metadata.name: Invalid value: "a/b": may not contain '/'`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewReport()
			ObjectMeta(r, &tc.meta, tc.namespaced, tc.rule)
			if diff := cmp.Diff(tc.want, texts(r)); diff != "" {
				t.Error(diff)
			}
		})
	}
	old := &metav1.ObjectMeta{Name: "a", UID: "1", ResourceVersion: "1", DeletionTimestamp: &metav1.Time{}}
	now := old.DeepCopy()
	now.UID, now.Finalizers = "2", []string{"x.io/new"}
	r := NewReport()
	ObjectMetaUpdate(r, now, old)
	want := []string{
		`metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x.io/new"}`,
		`metadata.uid: Invalid value: "2": field is immutable`,
	}
	if diff := cmp.Diff(want, texts(r)); diff != "" {
		t.Error(diff)
	}
}
