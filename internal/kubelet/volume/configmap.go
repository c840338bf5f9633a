package volume

import (
	"context"
	"os"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// addConfigMap adds the keys of a ConfigMap, or those of items.
func (m *Manager) addConfigMap(ctx context.Context, out files, namespace, name string, items []v1.KeyToPath, mode os.FileMode, optional bool) error {
	object, err := m.Objects.ConfigMap(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		if optional {
			return nil
		}
		return missing("configmap %q not found", name)
	}
	if err != nil {
		return err
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for key, text := range object.Data {
		data[key] = []byte(text)
	}
	for key, bytes := range object.BinaryData {
		data[key] = bytes
	}
	return out.addKeys(data, items, mode, optional, "references non-existent config key: %s")
}

// addKeys adds data by its keys, or those that items name at the paths that
// they give. A key that is not there is an error of the form absent, unless
// the object is optional.
func (f files) addKeys(data map[string][]byte, items []v1.KeyToPath, mode os.FileMode, optional bool, absent string) error {
	if len(items) == 0 {
		for key, content := range data {
			f[key] = file{content: content, mode: mode}
		}
		return nil
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return missing(absent, item.Key)
		}
		own := mode
		if item.Mode != nil {
			own = os.FileMode(*item.Mode)
		}
		f[item.Path] = file{content: content, mode: own}
	}
	return nil
}
