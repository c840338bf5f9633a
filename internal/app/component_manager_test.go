package app

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/watchcache"
)

// counted counts what is read.
type counted struct {
	client.Transport
	tables, lists int
}

func (c *counted) List(context.Context, client.Ref, metav1.ListOptions) (*client.List, error) {
	c.lists++
	return nil, nil
}

func (c *counted) Table(context.Context, schema.GroupVersionResource, watchcache.Scope) (*watchcache.Table, error) {
	c.tables++
	return nil, nil
}

// Upstream's roles let the root CA's publisher write ConfigMaps, not read them:
// whatever is followed is read under the process's identity, and once.
func TestAccountsFollowUnderTheProcessesIdentity(t *testing.T) {
	own, theirs := &counted{}, &counted{}
	a := &account{Transport: theirs, own: own}
	if _, err := a.Table(t.Context(), schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, watchcache.Scope{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.List(t.Context(), client.Ref{}, metav1.ListOptions{}); err != nil { // how new the table has to be
		t.Fatal(err)
	}
	if *own != (counted{tables: 1, lists: 1}) || *theirs != (counted{}) {
		t.Errorf("under the process's identity %+v, under the account's %+v", *own, *theirs)
	}
}
