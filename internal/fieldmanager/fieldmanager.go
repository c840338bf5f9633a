// Package fieldmanager keeps metadata.managedFields: it records who set which
// field on every write, and carries out server-side apply. The merge itself is
// structured-merge-diff's; see KEP-555.
package fieldmanager

import (
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
)

// Kind is what the manager must know of a kind.
type Kind struct {
	GVK schema.GroupVersionKind
	// Subresource is the view written through, "" for the object itself.
	Subresource string
	// Reset are the paths that a write through this view never owns.
	Reset *fieldpath.Set
	// Default fills in defaults.
	Default func(meta.Object)
	// New returns an empty object.
	New func() meta.Object
	// Forms are all forms of the kind, this one included, where it has several:
	// an object's fields may have been set through any of them.
	Forms Forms
}

// Forms are the groups and versions in which one kind of object is shown.
type Forms map[schema.GroupVersion]Form

// Form is one of them, and how it becomes the one that is stored, and back.
type Form struct {
	GVK            schema.GroupVersionKind
	New            func() meta.Object
	ToHub, FromHub func(meta.Object) meta.Object
}

// Managers holds one manager per kind and view, made when first needed: the
// schema takes a tenth of a second to parse, which start-up need not wait for.
type Managers struct {
	types func() managedfields.TypeConverter
	quick quick
	mu    sync.Mutex
	made  map[schema.GroupVersionKind]map[string]*managedfields.FieldManager
}

// New returns an empty set of managers.
func New() *Managers {
	return &Managers{
		types: sync.OnceValue(func() managedfields.TypeConverter {
			return trust(applyconfigurations.NewTypeConverter(scheme.Known))
		}),
		made: map[schema.GroupVersionKind]map[string]*managedfields.FieldManager{},
	}
}

// Warm parses the schema, so that the first write need not.
func (m *Managers) Warm() { m.types() }

// Update returns obj with managedFields brought up to date for a write by
// manager over old (an empty object on create). It never fails: a client that
// sends managedFields that cannot be read has them rebuilt.
func (m *Managers) Update(k Kind, old, obj meta.Object, manager string) (meta.Object, error) {
	if m.usual(k, old, obj, manager) {
		return wholeSeconds(obj), nil
	}
	fm, err := m.of(k)
	if err != nil {
		return nil, err
	}
	return wholeSeconds(fm.UpdateNoErrors(old, obj, manager).(meta.Object)), nil
}

// usual records a write by the quick way, if that is possible.
func (m *Managers) usual(k Kind, old, obj meta.Object, manager string) bool {
	trusted, ok := m.types().(*trusting)
	if !ok || obj.GetObjectKind().GroupVersionKind() != k.GVK || k.Reset != nil && !k.Reset.Children.Empty() {
		return false
	}
	as, ok := trusted.known(k.GVK)
	return ok && m.quick.update(&write{kind: k, as: as, old: old, obj: obj, manager: manager})
}

// wholeSeconds gives the entries' times the resolution in which they are
// stored, so that an object compares equal with what is read back.
func wholeSeconds(obj meta.Object) meta.Object {
	entries := obj.GetManagedFields()
	for i, e := range entries {
		if e.Time != nil && e.Time.Nanosecond() != 0 {
			entries[i].Time = &metav1.Time{Time: e.Time.Truncate(time.Second)}
		}
	}
	return obj
}

// Apply merges the configuration applied by manager into old. Conflicts come
// back as an apierrors conflict with a cause per field, unless force is set.
func (m *Managers) Apply(k Kind, old meta.Object, applied *unstructured.Unstructured, manager string, force bool) (meta.Object, error) {
	fm, err := m.of(k)
	if err != nil {
		return nil, err
	}
	got, err := fm.Apply(old, applied, manager, force)
	if err != nil {
		return nil, err
	}
	return wholeSeconds(got.(meta.Object)), nil
}

// Check reports whether managedFields that a client sent can be read.
func Check(entries []metav1.ManagedFieldsEntry) error {
	return managedfields.ValidateManagedFields(entries)
}

func (m *Managers) of(k Kind) (*managedfields.FieldManager, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fm := m.made[k.GVK][k.Subresource]; fm != nil {
		return fm, nil
	}
	var reset map[fieldpath.APIVersion]fieldpath.Filter
	if k.Reset != nil {
		reset = map[fieldpath.APIVersion]fieldpath.Filter{
			fieldpath.APIVersion(k.GVK.GroupVersion().String()): fieldpath.NewExcludeSetFilter(k.Reset),
		}
	}
	c := newConverter(k)
	fm, err := managedfields.NewDefaultFieldManager(m.types(), c, c, c, k.GVK, k.GVK.GroupVersion(), k.Subresource, reset)
	if err != nil {
		return nil, fmt.Errorf("making field manager of %s: %w", k.GVK, err)
	}
	if m.made[k.GVK] == nil {
		m.made[k.GVK] = map[string]*managedfields.FieldManager{}
	}
	m.made[k.GVK][k.Subresource] = fm
	return fm, nil
}
