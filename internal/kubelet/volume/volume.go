// Package volume makes the volumes of pods: it mounts them below the pod's
// directory, keeps those made of API objects current, works out what each
// container sees of them, and takes them away again. One file holds one kind.
//
// It reads ConfigMaps, Secrets and the node's pods from the API, asks it for
// service account tokens, and writes below <root>/pods/<uid>/volumes and
// .../volume-subpaths only. What is there is the state: a new Manager takes
// over the volumes of an earlier one. Nothing is ever deleted through a mount.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/mount"
)

// Objects gives the API objects that volumes are made of. Missing ones are the
// API's errors (apierrors.IsNotFound).
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Token asks for a token of a service account.
	Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	// Hold keeps an eye on the ConfigMaps and Secrets of a pod, in place of
	// those held before for it, and calls changed whenever one of them changes;
	// changed must not block. Without objects it lets go.
	Hold(uid types.UID, namespace string, configMaps, secrets []string, changed func())
	// FollowPods calls f with every pod of the node and each change of one,
	// until ctx ends.
	FollowPods(ctx context.Context, f func(*v1.Pod))
}

// Config is what volumes depend on. All but the functions are required.
type Config struct {
	Layout  layout.Layout
	Mounter mount.Mounter
	Objects Objects
	Log     *slog.Logger
	// Allocatable stands in for limits that are not set, and bounds volumes
	// that live in memory.
	Allocatable func() v1.ResourceList
	// RecursiveReadOnly tells whether the runtime can make the mounts below a
	// volume read-only for pods of a RuntimeClass ("" for none); nil for no.
	RecursiveReadOnly func(runtimeClass string) bool
}

// Manager mounts volumes. It implements steps.Volumes; all calls are safe for
// concurrent use.
type Manager struct {
	Config
	mu   sync.Mutex
	pods map[types.UID]*podVolumes
	wake chan struct{} // tells Run that something is due
}

// podVolumes is what is known of one pod whose volumes are mounted.
type podVolumes struct {
	// lock is held, as its one element, while the pod's volumes are worked on.
	lock chan struct{}

	// Below, guarded by lock.
	pod    *v1.Pod // as it was mounted, with the newest labels and annotations
	tokens map[tokenKey]token

	// Below, guarded by the Manager's mu.
	dirty  bool      // an object or the pod has changed
	due    time.Time // when a token is to be renewed or a failed refresh tried again
	fails  int       // failed refreshes in a row
	ending bool      // the pod is being deleted, and maybe all it uses with it
}

// New returns a manager; Run keeps what it mounts current.
func New(c Config) *Manager {
	return &Manager{Config: c, pods: map[types.UID]*podVolumes{}, wake: make(chan struct{}, 1)}
}

// enter returns the pod's entry, locked; leave unlocks it.
func (m *Manager) enter(ctx context.Context, uid types.UID) (*podVolumes, error) {
	m.mu.Lock()
	v := m.pods[uid]
	if v == nil {
		v = &podVolumes{lock: make(chan struct{}, 1), tokens: map[tokenKey]token{}}
		m.pods[uid] = v
	}
	m.mu.Unlock()
	select {
	case v.lock <- struct{}{}:
		return v, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *podVolumes) leave() { <-v.lock }

// Mount makes every volume of the pod ready and returns what stood in the way.
// A volume that is there keeps its data; the contents of those made of objects
// are brought up to date.
func (m *Manager) Mount(ctx context.Context, pod *v1.Pod) error {
	v, err := m.enter(ctx, pod.UID)
	if err != nil {
		return err
	}
	defer v.leave()
	v.pod = pod
	// Held before they are read, so that no change falls between.
	m.hold(pod, v)
	return m.setUp(ctx, v, allVolumes)
}

// hold follows the objects that the pod's volumes are made of.
func (m *Manager) hold(pod *v1.Pod, v *podVolumes) {
	configMaps, secrets := references(pod)
	if len(configMaps)+len(secrets) == 0 {
		return
	}
	m.Objects.Hold(pod.UID, pod.Namespace, configMaps, secrets, func() { m.soil(v) })
}

// soil notes that a pod's volumes have to be brought up to date.
func (m *Manager) soil(v *podVolumes) {
	m.mu.Lock()
	v.dirty = true
	m.mu.Unlock()
	m.nudge()
}

func (m *Manager) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func allVolumes(*v1.Volume) bool { return true }

// setUp sets up the volumes that which selects. It tries all of them: one that
// fails does not keep the others from being ready sooner.
func (m *Manager) setUp(ctx context.Context, v *podVolumes, which func(*v1.Volume) bool) error {
	var failed []error
	due := time.Time{}
	for i := range v.pod.Spec.Volumes {
		vol := &v.pod.Spec.Volumes[i]
		if !which(vol) {
			continue
		}
		renew, err := m.setUpOne(ctx, v, vol)
		if err != nil {
			failed = append(failed, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err))
		}
		if !renew.IsZero() && (due.IsZero() || renew.Before(due)) {
			due = renew
		}
	}
	m.mu.Lock()
	v.due = due
	m.mu.Unlock()
	m.nudge()
	return joined(failed)
}

// setUpOne sets one volume up and returns when it has to be renewed, zero for
// never.
func (m *Manager) setUpOne(ctx context.Context, v *podVolumes, vol *v1.Volume) (time.Time, error) {
	dir := m.dir(v.pod, vol)
	switch s := &vol.VolumeSource; {
	case s.EmptyDir != nil:
		return time.Time{}, m.setUpEmptyDir(v.pod, vol, dir)
	case s.HostPath != nil:
		return time.Time{}, setUpHostPath(s.HostPath)
	case s.ConfigMap != nil, s.Secret != nil, s.DownwardAPI != nil, s.Projected != nil:
		return m.setUpFiles(ctx, v, vol, dir)
	}
	return time.Time{}, unsupported(vol)
}

// The plugins' directory names are upstream's: other programs look for them.
const (
	emptyDirPlugin  = "kubernetes.io~empty-dir"
	configMapPlugin = "kubernetes.io~configmap"
	secretPlugin    = "kubernetes.io~secret"
	projectedPlugin = "kubernetes.io~projected"
	downwardPlugin  = "kubernetes.io~downward-api"
)

// dir is where the volume is found on the host, "" for kinds without one.
func (m *Manager) dir(pod *v1.Pod, vol *v1.Volume) string {
	plugin := ""
	switch s := &vol.VolumeSource; {
	case s.HostPath != nil:
		return filepath.Clean(s.HostPath.Path)
	case s.EmptyDir != nil:
		plugin = emptyDirPlugin
	case s.ConfigMap != nil:
		plugin = configMapPlugin
	case s.Secret != nil:
		plugin = secretPlugin
	case s.Projected != nil:
		plugin = projectedPlugin
	case s.DownwardAPI != nil:
		plugin = downwardPlugin
	default:
		return ""
	}
	return filepath.Join(m.Layout.VolumesDir(pod.UID), plugin, vol.Name)
}

// unsupported says clearly which kind of volume this node cannot mount.
func unsupported(vol *v1.Volume) error {
	kind := "of an unknown kind"
	switch s := &vol.VolumeSource; {
	case s.PersistentVolumeClaim != nil:
		kind = fmt.Sprintf("of persistent volume claim %q", s.PersistentVolumeClaim.ClaimName)
	case s.Ephemeral != nil:
		kind = "ephemeral"
	case s.CSI != nil:
		kind = fmt.Sprintf("of CSI driver %q", s.CSI.Driver)
	case s.NFS != nil:
		kind = "nfs"
	case s.ISCSI != nil:
		kind = "iscsi"
	case s.Image != nil:
		kind = "image"
	case s.FC != nil:
		kind = "fc"
	}
	return fmt.Errorf("no volume plugin matched: volumes %s are not supported by this node", kind)
}

// references lists the ConfigMaps and Secrets that volumes of the pod name.
func references(pod *v1.Pod) (configMaps, secrets []string) {
	for i := range pod.Spec.Volumes {
		switch s := &pod.Spec.Volumes[i].VolumeSource; {
		case s.ConfigMap != nil:
			configMaps = append(configMaps, s.ConfigMap.Name)
		case s.Secret != nil:
			secrets = append(secrets, s.Secret.SecretName)
		case s.Projected != nil:
			for j := range s.Projected.Sources {
				if p := &s.Projected.Sources[j]; p.ConfigMap != nil {
					configMaps = append(configMaps, p.ConfigMap.Name)
				} else if p.Secret != nil {
					secrets = append(secrets, p.Secret.Name)
				}
			}
		}
	}
	return configMaps, secrets
}

// joined is errors.Join in one line, as events have.
func joined(list []error) error {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	text := make([]string, len(list))
	for i, err := range list {
		text[i] = err.Error()
	}
	return &several{text: strings.Join(text, "; "), err: errors.Join(list...)}
}

type several struct {
	text string
	err  error
}

func (s *several) Error() string { return s.text }
func (s *several) Unwrap() error { return s.err }
