// Package layout says where the kubelet keeps things on the node's disk. The
// layout below both roots is upstream's, because log collectors and storage
// drivers know it; the roots are the kubelet's configuration.
package layout

import (
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Layout is the set of root directories, all absolute.
type Layout struct {
	Root          string // pods/<uid> and plugins; upstream: /var/lib/kubelet
	PodLogs       string // upstream: /var/log/pods
	ContainerLogs string // symbolic links by container name; upstream: /var/log/containers
}

// Below returns the layout with everything under the kubelet's root directory.
func Below(dir string) Layout {
	return Layout{
		Root:          dir,
		PodLogs:       filepath.Join(dir, "log", "pods"),
		ContainerLogs: filepath.Join(dir, "log", "containers"),
	}
}

// PodsDir holds one directory for each pod that is on the node.
func (l Layout) PodsDir() string { return filepath.Join(l.Root, "pods") }

// PodDir is the directory of one pod.
func (l Layout) PodDir(uid types.UID) string { return filepath.Join(l.PodsDir(), string(uid)) }

// VolumesDir holds the pod's volumes as <plugin, / as ~>/<volume>.
func (l Layout) VolumesDir(uid types.UID) string { return filepath.Join(l.PodDir(uid), "volumes") }

// SubpathsDir holds the bind mounts of subPath volume mounts.
func (l Layout) SubpathsDir(uid types.UID) string {
	return filepath.Join(l.PodDir(uid), "volume-subpaths")
}

// HostsFile is the pod's /etc/hosts.
func (l Layout) HostsFile(uid types.UID) string { return filepath.Join(l.PodDir(uid), "etc-hosts") }

// SpecFile holds the pod as it was when its sandbox was made, so that a pod
// that is gone from the API can still be ended by its own hooks and grace.
func (l Layout) SpecFile(uid types.UID) string { return filepath.Join(l.PodDir(uid), "pod.json") }

// EndingFile holds when the end of the pod began and which hooks have run.
func (l Layout) EndingFile(uid types.UID) string {
	return filepath.Join(l.PodDir(uid), "ending.json")
}

// ContainerDir holds the termination messages of one container.
func (l Layout) ContainerDir(uid types.UID, container string) string {
	return filepath.Join(l.PodDir(uid), "containers", container)
}

// SeccompDir is where seccomp profiles of type Localhost are looked up.
func (l Layout) SeccompDir() string { return filepath.Join(l.Root, "seccomp") }

// PodLogDir is the directory of a pod's logs.
func (l Layout) PodLogDir(pod *v1.Pod) string {
	return l.PodLogDirOf(pod.Namespace, pod.Name, pod.UID)
}

// PodLogDirOf is PodLogDir where only the name of a pod is known.
func (l Layout) PodLogDirOf(namespace, name string, uid types.UID) string {
	return filepath.Join(l.PodLogs, namespace+"_"+name+"_"+string(uid))
}

// LogPath is a container's log relative to the pod's log directory.
func LogPath(container string, attempt int) string {
	return filepath.Join(container, strconv.Itoa(attempt)+".log")
}

// LogLink is the symbolic link by which a container's current log is found.
func (l Layout) LogLink(pod *v1.Pod, container, containerID string) string {
	return filepath.Join(l.ContainerLogs, pod.Name+"_"+pod.Namespace+"_"+container+"-"+containerID+".log")
}
