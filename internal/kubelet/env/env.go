// Package env works out the environment of containers: literal values,
// references to fields, resources, ConfigMaps, Secrets and files, variables
// that describe Services, and the expansion of $(NAME). It reads objects
// through Sources and writes nothing.
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
package env

import (
	"context"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Sources is where references are looked up. Errors of missing objects are the
// API's (apierrors.IsNotFound).
type Sources interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Services returns the Services of a namespace.
	Services(ctx context.Context, namespace string) ([]*v1.Service, error)
	// File returns a file of a mounted volume of the pod.
	File(pod *v1.Pod, volume, path string) ([]byte, error)
}

// Var is one variable.
type Var struct{ Name, Value string }

// Make returns the variables of a container in the order in which they are to
// be set, each name once. The pod's status has its addresses; allocatable is
// the node's, which stands in for limits that are not set.
func Make(ctx context.Context, src Sources, pod *v1.Pod, c *v1.Container, allocatable v1.ResourceList) ([]Var, error) {
	m := maker{Sources: src, pod: pod, container: c, allocatable: allocatable, values: map[string]string{}}
	if err := m.services(ctx); err != nil {
		return nil, err
	}
	for i := range c.EnvFrom {
		if err := m.from(ctx, &c.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		if err := m.variable(ctx, &c.Env[i]); err != nil {
			return nil, err
		}
	}
	return m.result(), nil
}

// Map returns vars by name.
func Map(vars []Var) map[string]string {
	m := make(map[string]string, len(vars))
	for _, v := range vars {
		m[v.Name] = v.Value
	}
	return m
}

type maker struct {
	Sources
	pod         *v1.Pod
	container   *v1.Container
	allocatable v1.ResourceList
	names       []string // in order of first appearance
	values      map[string]string
	links       map[string]string // from Services; anything else goes before them
}

func (m *maker) set(name, value string) {
	if _, ok := m.values[name]; !ok {
		m.names = append(m.names, name)
	}
	m.values[name] = value
}

func (m *maker) result() []Var {
	vars := make([]Var, 0, len(m.names)+len(m.links))
	for _, name := range m.names {
		vars = append(vars, Var{name, m.values[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(m.links)) {
		if _, ok := m.values[name]; !ok {
			vars = append(vars, Var{name, m.links[name]})
		}
	}
	return vars
}

// lookup is what $(NAME) sees: what was set before, then the Services.
func (m *maker) lookup(name string) (string, bool) {
	if v, ok := m.values[name]; ok {
		return v, true
	}
	v, ok := m.links[name]
	return v, ok
}

func (m *maker) from(ctx context.Context, f *v1.EnvFromSource) error {
	switch {
	case f.ConfigMapRef != nil:
		cm, err := m.ConfigMap(ctx, m.pod.Namespace, f.ConfigMapRef.Name)
		if err != nil {
			return optionally(f.ConfigMapRef.Optional, err)
		}
		for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
			m.set(f.Prefix+k, cm.Data[k])
		}
	case f.SecretRef != nil:
		s, err := m.Secret(ctx, m.pod.Namespace, f.SecretRef.Name)
		if err != nil {
			return optionally(f.SecretRef.Optional, err)
		}
		for _, k := range slices.Sorted(maps.Keys(s.Data)) {
			m.set(f.Prefix+k, string(s.Data[k]))
		}
	}
	return nil
}

// optionally forgives that something optional does not exist.
func optionally(optional *bool, err error) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (m *maker) variable(ctx context.Context, e *v1.EnvVar) error {
	if e.ValueFrom == nil {
		m.set(e.Name, Expand(e.Value, m.lookup))
		return nil
	}
	value, found, err := m.reference(ctx, e.ValueFrom)
	if err != nil || !found {
		return err
	}
	m.set(e.Name, value)
	return nil
}

// reference returns what a variable refers to; found is false where something
// optional is missing.
func (m *maker) reference(ctx context.Context, s *v1.EnvVarSource) (value string, found bool, err error) {
	switch {
	case s.FieldRef != nil:
		value, err = Field(m.pod, s.FieldRef.FieldPath)
	case s.ResourceFieldRef != nil:
		value, err = m.resource(s.ResourceFieldRef)
	case s.ConfigMapKeyRef != nil:
		return m.configMapKey(ctx, s.ConfigMapKeyRef)
	case s.SecretKeyRef != nil:
		return m.secretKey(ctx, s.SecretKeyRef)
	case s.FileKeyRef != nil:
		return m.fileKey(s.FileKeyRef)
	}
	return value, err == nil, err
}

func (m *maker) resource(ref *v1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName == "" || ref.ContainerName == m.container.Name {
		return Resource(m.container, ref, m.allocatable)
	}
	return PodResource(m.pod, ref, m.allocatable)
}

func (m *maker) configMapKey(ctx context.Context, ref *v1.ConfigMapKeySelector) (string, bool, error) {
	cm, err := m.ConfigMap(ctx, m.pod.Namespace, ref.Name)
	if err != nil {
		return "", false, optionally(ref.Optional, err)
	}
	v, ok := cm.Data[ref.Key]
	if !ok && (ref.Optional == nil || !*ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, m.pod.Namespace, ref.Name)
	}
	return v, ok, nil
}

func (m *maker) secretKey(ctx context.Context, ref *v1.SecretKeySelector) (string, bool, error) {
	s, err := m.Secret(ctx, m.pod.Namespace, ref.Name)
	if err != nil {
		return "", false, optionally(ref.Optional, err)
	}
	v, ok := s.Data[ref.Key]
	if !ok && (ref.Optional == nil || !*ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, m.pod.Namespace, ref.Name)
	}
	return string(v), ok, nil
}
