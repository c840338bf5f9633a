package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/mount"
)

// setUpFiles sets up a volume whose files the kubelet writes. Only ConfigMaps
// may be written to a disk; the rest is kept in memory.
func (m *Manager) setUpFiles(ctx context.Context, v *podVolumes, vol *v1.Volume, dir string) (time.Time, error) {
	files, renew, err := m.contents(ctx, v, vol)
	if err != nil {
		if !definite(err) && isSetUp(dir) {
			m.Log.Warn("a volume stays as it is, as the API cannot be asked", "volume", vol.Name, "dir", dir, "err", err)
			return retryAfterOutage(), nil
		}
		return time.Time{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, fmt.Errorf("making the volume's directory: %w", err)
	}
	if vol.ConfigMap == nil {
		if err := m.mountMemory(dir, ""); err != nil {
			return time.Time{}, err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return time.Time{}, fmt.Errorf("setting the volume's mode: %w", err)
	}
	group := fsGroup(v.pod)
	if group != nil {
		if err := os.Lchown(dir, -1, int(*group)); err != nil {
			return time.Time{}, fmt.Errorf("setting the volume's group: %w", err)
		}
		if err := os.Chmod(dir, os.ModeSetgid|0o777); err != nil {
			return time.Time{}, fmt.Errorf("setting the volume's mode: %w", err)
		}
	}
	return renew, write(dir, files, group)
}

// contents returns what a volume's files are to be now.
func (m *Manager) contents(ctx context.Context, v *podVolumes, vol *v1.Volume) (files, time.Time, error) {
	out := files{}
	switch s := &vol.VolumeSource; {
	case s.ConfigMap != nil:
		return out, time.Time{}, m.addConfigMap(ctx, out, v.pod.Namespace, s.ConfigMap.Name, s.ConfigMap.Items, modeOf(s.ConfigMap.DefaultMode), isTrue(s.ConfigMap.Optional))
	case s.Secret != nil:
		return out, time.Time{}, m.addSecret(ctx, out, v.pod.Namespace, s.Secret.SecretName, s.Secret.Items, modeOf(s.Secret.DefaultMode), isTrue(s.Secret.Optional))
	case s.DownwardAPI != nil:
		return out, time.Time{}, m.addDownward(out, v.pod, s.DownwardAPI.Items, modeOf(s.DownwardAPI.DefaultMode))
	}
	return m.projected(ctx, v, vol)
}

// definite tells whether trying again would give the same: then the volume
// must not look as if it were current.
func definite(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		var missing *missingError
		return errors.As(err, &missing)
	}
	switch code := status.Status().Code; {
	case code == 429, code >= 500:
		return false
	}
	return true
}

// missingError is about an object or a key that is not there.
type missingError struct{ text string }

func (e *missingError) Error() string { return e.text }

func missing(format string, args ...any) error {
	return &missingError{text: fmt.Sprintf(format, args...)}
}

// isSetUp tells whether files have been written to the volume before.
func isSetUp(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, dataLink))
	return err == nil
}

// mountMemory mounts a file system in memory at dir, unless that is done.
// Contents that must not reach a disk must not be swapped out either; kernels
// before 6.4 cannot promise that.
func (m *Manager) mountMemory(dir, options string) error {
	mounted, err := mount.IsMountPoint(m.Mounter, dir)
	if err != nil || mounted {
		return err
	}
	fs := mount.Mount{Source: "tmpfs", Target: dir, Type: "tmpfs", Options: join(options, "noswap")}
	if err := m.Mounter.Mount(fs); err == nil {
		return nil
	}
	fs.Options = options
	return m.Mounter.Mount(fs)
}

func join(a, b string) string { return strings.Trim(a+","+b, ",") }

const defaultMode = 0o644

func modeOf(mode *int32) os.FileMode {
	if mode == nil {
		return defaultMode
	}
	return os.FileMode(*mode)
}

func isTrue(b *bool) bool { return b != nil && *b }

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}
