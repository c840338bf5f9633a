package app

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/watchcache"
)

// counted counts the tables that are asked for.
type counted struct {
	client.Transport
	tables int
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
	if own.tables != 1 || theirs.tables != 0 {
		t.Errorf("%d tables under the process's identity, %d under the account's", own.tables, theirs.tables)
	}
}
