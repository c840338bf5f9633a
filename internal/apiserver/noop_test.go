package apiserver_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"skiff.dev/skiff/internal/testing/apitest"
)

// TestPatchThatChangesNothing answers with the object as it was, to the last
// timestamp: kubectl tells "(no change)" by that.
func TestPatchThatChangesNothing(t *testing.T) {
	api := apitest.Start(t)
	ctx := t.Context()
	_, err := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).CoreV1().ConfigMaps("default").Create(ctx,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{FieldManager: "maker"})
	if err != nil {
		t.Fatal(err)
	}
	c := dynamic.NewForConfigOrDie(api.Config(apitest.Admin)).Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace("default")
	before, err := c.Get(ctx, "m", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for pt, patch := range map[types.PatchType]string{
		types.MergePatchType: `{"data":{"a":"b"}}`, types.StrategicMergePatchType: `{"data":{"a":"b"}}`,
		types.JSONPatchType: `[{"op":"replace","path":"/data/a","value":"b"}]`,
	} {
		after, err := c.Patch(ctx, "m", pt, []byte(patch), metav1.PatchOptions{FieldManager: "patcher"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before.Object, after.Object); diff != "" {
			t.Errorf("%s: %s", pt, diff)
		}
	}
}
