package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store/mem"
)

// Bootstrap waits with this for the authorizer, however slow that is. Without
// it the parts of a new cluster were refused now and then, as the authorizer had
// not yet heard of the roles just written; the simulation found it.
func TestCaughtUpWaitsForSlowListeners(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, s := context.Background(), mem.New()
		defer s.Close()
		cp, err := Start(ctx, Config{
			Store: s, Issuer: "https://kubernetes.default.svc", ServiceAccountKey: key,
			Services: core.ServiceConfig{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, FirstNodePort: 30000, LastNodePort: 32767},
		})
		if err != nil {
			t.Fatal(err)
		}
		var told atomic.Int32
		slow := follow(cp.Engine, map[schema.GroupResource]changed{rbac.ClusterRoles: func(schema.GroupResource, meta.Key, meta.Object) {
			time.Sleep(time.Second)
			told.Add(1)
		}})
		defer slow.wait()
		defer cp.Close()
		for _, name := range []string{"a", "b", "c"} {
			made, err := client.For[*rbacv1.ClusterRole](cp.self()).Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.For[*rbacv1.ClusterRole](cp.self()).Get(ctx, "", made.Name); err != nil { // the table has it
				t.Fatal(err)
			}
		}
		if err := slow.caughtUp(ctx); err != nil {
			t.Fatal(err)
		}
		if n := told.Load(); n != 3 {
			t.Errorf("%d of 3 roles have been told", n)
		}
	})
}
