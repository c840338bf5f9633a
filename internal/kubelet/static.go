package kubelet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/pod"
)

// Annotations by which static pods and their mirrors are known.
const (
	sourceAnnotation = "kubernetes.io/config.source"
	hashAnnotation   = "kubernetes.io/config.hash"
	seenAnnotation   = "kubernetes.io/config.seen"
)

func isStatic(p *v1.Pod) bool { return p.Annotations[sourceAnnotation] == "file" }

// readStatics reads the manifests of the static pods, by uid. A file that
// cannot be read or understood is reported and does not hold up the others.
func (k *Kubelet) readStatics() (map[types.UID]*v1.Pod, error) {
	out := map[types.UID]*v1.Pod{}
	if k.StaticPodPath == "" {
		return out, nil
	}
	entries, err := os.ReadDir(k.StaticPodPath)
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("reading static pods: %w", err)
	}
	var wrong []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		p, err := k.readStatic(filepath.Join(k.StaticPodPath, e.Name()))
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		out[p.UID] = p
	}
	return out, errors.Join(wrong...)
}

// maxManifest bounds a manifest.
const maxManifest = 3 << 20

func (k *Kubelet) readStatic(file string) (*v1.Pod, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("reading static pod: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxManifest {
		return nil, fmt.Errorf("static pod %s: not a file of at most %d bytes", file, maxManifest)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading static pod: %w", err)
	}
	return StaticPod(data, file, k.Node.Name, info.ModTime())
}

// StaticPod makes the pod of a manifest: defaulted, named after the node, bound
// to it, and with a uid that changes with the manifest.
func StaticPod(manifest []byte, file, node string, seen time.Time) (*v1.Pod, error) {
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict(bytes.TrimSpace(manifest), p); err != nil {
		return nil, fmt.Errorf("static pod %s: %w", file, err)
	}
	if p.Kind != "Pod" || p.APIVersion != "v1" || p.Name == "" || len(p.Spec.Containers) == 0 {
		return nil, fmt.Errorf("static pod %s: want a v1 Pod with a name and containers", file)
	}
	pod.Default(p)
	if p.Namespace == "" {
		p.Namespace = metav1.NamespaceDefault
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n", node, file) // a hash's Write never fails
	sum.Write(manifest)
	hash := hex.EncodeToString(sum.Sum(nil))[:32]
	p.UID = types.UID(hash)
	p.Name += "-" + strings.ToLower(node)
	p.Spec.NodeName = node
	p.CreationTimestamp, p.ResourceVersion, p.Status = metav1.Time{}, "", v1.PodStatus{Phase: v1.PodPending}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[hashAnnotation] = hash
	p.Annotations[sourceAnnotation] = "file"
	p.Annotations[seenAnnotation] = seen.UTC().Format(time.RFC3339Nano)
	// Static pods belong to the node: no taint drives them away.
	p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	return p, nil
}

// followStatics runs the static pods and keeps them in step with their
// directory, which may come and go.
func (k *Kubelet) followStatics(ctx context.Context, have map[types.UID]*v1.Pod) {
	for _, p := range have {
		k.startStatic(p)
	}
	if k.StaticPodPath == "" {
		return
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		k.Log.Error("watching static pods", "err", err)
		return
	}
	defer watcher.Close()
	// The parent is watched too, for the directory itself may be made later.
	for _, dir := range []string{k.StaticPodPath, filepath.Dir(k.StaticPodPath)} {
		if err := watcher.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			k.Log.Error("watching static pods", "dir", dir, "err", err)
		}
	}
	for k.nextStatics(ctx, watcher) {
		if err := watcher.Add(k.StaticPodPath); err != nil && !errors.Is(err, os.ErrNotExist) {
			k.Log.Error("watching static pods", "err", err)
		}
		next, err := k.readStatics()
		if err != nil {
			k.Log.Error("reading static pods", "dir", k.StaticPodPath, "err", err)
		}
		for uid, p := range have {
			if next[uid] == nil {
				k.stopStatic(p)
			}
		}
		for uid, p := range next {
			if have[uid] == nil {
				k.startStatic(p)
			}
		}
		have = next
	}
}

// settle is how long the directory must be quiet: files are written in steps.
const settle = 100 * time.Millisecond

// nextStatics waits for a change in the directory to be complete.
func (k *Kubelet) nextStatics(ctx context.Context, w *fsnotify.Watcher) bool {
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case err := <-w.Errors:
			k.Log.Warn("watching static pods", "err", err) // an overflow: read all again
			quiet = time.After(settle)
		case e := <-w.Events:
			if e.Name == k.StaticPodPath || filepath.Dir(e.Name) == k.StaticPodPath {
				quiet = time.After(settle)
			}
		case <-quiet:
			return true
		}
	}
}

// startStatic starts a static pod, after the one of its name before it ends.
func (k *Kubelet) startStatic(p *v1.Pod) {
	k.mu.Lock()
	for _, w := range k.workers {
		if w.static && w.uid != p.UID && w.name == fullName(p) {
			k.waiting[fullName(p)] = p
			k.mu.Unlock()
			return
		}
	}
	k.mu.Unlock()
	k.admit(p)
	k.mirror(p)
}

func (k *Kubelet) stopStatic(p *v1.Pod) {
	k.mu.Lock()
	if w := k.waiting[fullName(p)]; w != nil && w.UID == p.UID {
		delete(k.waiting, fullName(p))
	}
	mirror := k.mirrors[fullName(p)]
	k.mu.Unlock()
	k.gone(p)
	if mirror != nil {
		k.deleteMirror(mirror)
	}
}

// mirror shows a static pod in the API. The API may be away, or be run by this
// very pod, so that this is tried until it works or the pod is gone.
func (k *Kubelet) mirror(p *v1.Pod) {
	k.running.Go(func() {
		for wait := firstMirrorRetry; k.ctx.Err() == nil && k.wanted(p.UID); wait = min(2*wait, lastMirrorRetry) {
			err := k.createMirror(p)
			if err == nil {
				return
			}
			k.Log.Debug("creating a mirror pod", "pod", podsync.Format(p), "err", err)
			pause(k.ctx, wait)
		}
	})
}

const (
	firstMirrorRetry = 500 * time.Millisecond
	lastMirrorRetry  = 30 * time.Second
)

func (k *Kubelet) createMirror(p *v1.Pod) error {
	node, ok := k.sources.node()
	if !ok {
		return errors.New("the node is not registered yet")
	}
	m := p.DeepCopy()
	m.UID, m.Status = "", v1.PodStatus{}
	m.Annotations[v1.MirrorPodAnnotationKey] = m.Annotations[hashAnnotation]
	controller := true
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &controller}}
	pods := client.For[*v1.Pod](k.Client)
	_, err := pods.Create(k.ctx, m)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	there, err := pods.Get(k.ctx, m.Namespace, m.Name)
	if err != nil {
		return err
	}
	if there.Annotations[v1.MirrorPodAnnotationKey] == string(p.UID) {
		return nil
	}
	if pod.IsMirror(there) {
		k.deleteMirror(there)
	}
	return errors.New("another pod of its name is in the API")
}

// wanted reports whether a static pod is to run.
func (k *Kubelet) wanted(uid types.UID) bool {
	w := k.worker(uid)
	if w == nil || !w.static {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.gone
}

// mirrorChange takes over a change of a mirror pod: one that is not of a
// static pod as it is now is deleted, one that went is made again.
func (k *Kubelet) mirrorChange(m *v1.Pod, deleted bool) {
	hash := m.Annotations[v1.MirrorPodAnnotationKey]
	k.mu.Lock()
	if deleted {
		delete(k.mirrors, fullName(m))
	} else {
		k.mirrors[fullName(m)] = m
	}
	k.mu.Unlock()
	switch {
	case deleted:
		for _, w := range k.allWorkers() {
			if w.name == fullName(m) && k.wanted(w.uid) {
				k.mirror(w.current())
			}
		}
	case m.DeletionTimestamp != nil || !k.wanted(types.UID(hash)):
		k.deleteMirror(m)
	default:
		if w := k.worker(types.UID(hash)); w != nil {
			w.poke()
		}
	}
}

func (k *Kubelet) deleteMirror(m *v1.Pod) {
	k.running.Go(func() {
		zero := int64(0)
		err := client.For[*v1.Pod](k.Client).Delete(k.ctx, m.Namespace, m.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &m.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && k.ctx.Err() == nil {
			k.Log.Warn("deleting a mirror pod", "pod", podsync.Format(m), "err", err)
		}
	})
}
