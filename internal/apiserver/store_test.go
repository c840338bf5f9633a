package apiserver_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/testing/apitest"
)

// storedKeys lists the keys below prefix.
func storedKeys(t *testing.T, api *apitest.API, prefix string) (keys []string) {
	t.Helper()
	page, err := api.Store.List(t.Context(), prefix, store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range page.KVs {
		keys = append(keys, kv.Key)
	}
	return keys
}

func decodeStored(t *testing.T, value []byte, into runtime.Object) schema.GroupVersionKind {
	t.Helper()
	kind, err := scheme.DecodeProtobuf(value, into)
	if err != nil {
		t.Fatal(err)
	}
	return kind
}
