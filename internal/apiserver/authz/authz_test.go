package authz

import (
	"context"
	"errors"
	"testing"

	"skiff.dev/skiff/internal/apiserver/request"
)

func says(d Decision, reason string, err error) Authorizer {
	return Func(func(context.Context, *request.User, *request.Info) (Decision, string, error) { return d, reason, err })
}

func TestUnion(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name   string
		union  Union
		want   Decision
		reason string
		err    error
	}{
		{"empty", nil, NoOpinion, "", nil},
		{"first decides", Union{says(NoOpinion, "a", broken), says(Allow, "b", nil), says(Deny, "c", nil)}, Allow, "b", nil},
		{"deny ends it", Union{says(Deny, "no", nil), says(Allow, "", nil)}, Deny, "no", nil},
		{"nobody", Union{says(NoOpinion, "a", nil), says(NoOpinion, "", nil), says(NoOpinion, "b", broken)}, NoOpinion, "a\nb", broken},
	} {
		d, reason, err := c.union.Authorize(context.Background(), &request.User{}, &request.Info{})
		if d != c.want || reason != c.reason || !errors.Is(err, c.err) {
			t.Errorf("%s: %v %q %v", c.name, d, reason, err)
		}
	}
}

func TestModes(t *testing.T) {
	master := &request.User{Name: "x", Groups: []string{request.GroupMasters}}
	ann := &request.User{Name: "ann", Groups: []string{request.GroupAuthenticated}}
	nobody := &request.User{Name: request.Anonymous, Groups: []string{request.GroupUnauthenticated}}
	abac, err := ParseABAC([]byte(`# people
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"ann","namespace":"dev","resource":"*","apiGroup":"*","readonly":true}}

{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"*","nonResourcePath":"/version*"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	pods := func(verb, namespace string) *request.Info {
		return &request.Info{IsResource: true, Verb: verb, Resource: "pods", Namespace: namespace}
	}
	for _, c := range []struct {
		name string
		a    Authorizer
		user *request.User
		info *request.Info
		want Decision
	}{
		{"superuser", Superuser{}, master, pods("delete", "x"), Allow},
		{"superuser, other", Superuser{}, ann, pods("get", "x"), NoOpinion},
		{"always allow", AlwaysAllow{}, nobody, pods("delete", "x"), Allow},
		{"always deny", AlwaysDeny{}, master, pods("get", "x"), NoOpinion},
		{"abac", abac, ann, pods("list", "dev"), Allow},
		{"abac write", abac, ann, pods("delete", "dev"), NoOpinion},
		{"abac elsewhere", abac, ann, pods("list", "prod"), NoOpinion},
		{"abac path", abac, ann, &request.Info{Verb: "get", Path: "/version"}, Allow},
		{"abac other path", abac, ann, &request.Info{Verb: "get", Path: "/metrics"}, NoOpinion},
		{"abac anonymous", abac, nobody, &request.Info{Verb: "get", Path: "/version"}, NoOpinion},
	} {
		if d, _, err := c.a.Authorize(context.Background(), c.user, c.info); d != c.want || err != nil {
			t.Errorf("%s: %v %v", c.name, d, err)
		}
	}
	for _, bad := range []string{`{}`, `{"kind":`, `{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"usr":"x"}}`} {
		if _, err := ParseABAC([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
