package volume

import (
	"context"
	"os"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// addSecret adds the keys of a Secret, or those of items.
func (m *Manager) addSecret(ctx context.Context, out files, namespace, name string, items []v1.KeyToPath, mode os.FileMode, optional bool) error {
	object, err := m.Objects.Secret(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		if optional {
			return nil
		}
		return missing("secret %q not found", name)
	}
	if err != nil {
		return err
	}
	return out.addKeys(object.Data, items, mode, optional, "references non-existent secret key: %s")
}
