package apiserver

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/apiserver/request"
)

// TestBusyServer: what is too much gets a 429, whatever must always be
// answered does not.
func TestBusyServer(t *testing.T) {
	s := &Server{Config: Config{Metrics: unobserved{}}, reads: limit{max: 1}, writes: limit{max: 2}}
	alice, admin := &request.User{Name: "alice"}, &request.User{Name: "admin", Groups: []string{request.GroupMasters}}
	get, create := &request.Info{Verb: "get", IsResource: true}, &request.Info{Verb: "create", IsResource: true}
	leave, err := s.admit(get, alice, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.admit(get, alice, false); !apierrors.IsTooManyRequests(err) {
		t.Errorf("second read: %v", err)
	} else if after, ok := apierrors.SuggestsClientDelay(err); !ok || after != 1 {
		t.Errorf("retry after %d", after)
	}
	for name, err := range map[string]error{
		"administrator": second(s.admit(get, admin, false)), "watch": second(s.admit(&request.Info{Verb: "watch"}, alice, true)),
		"health": second(s.admit(&request.Info{Verb: "get", Path: "/readyz/etcd"}, alice, false)), "write": second(s.admit(create, alice, false)),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	leave()
	if _, err := s.admit(get, alice, false); err != nil {
		t.Errorf("after the first has left: %v", err)
	}
}

func second(_ func(), err error) error { return err }
