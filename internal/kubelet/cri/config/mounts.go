package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const hostsPath = "/etc/hosts"

// mounts are the container's volumes, the pod's /etc/hosts and the file for
// the termination message.
func (b *Builder) mounts(ctx context.Context, pod *v1.Pod, c *v1.Container, attempt int, env map[string]string) ([]*runtimeapi.Mount, error) {
	mounts, err := b.Volumes.Mounts(ctx, pod, c, env)
	if err != nil {
		return nil, err
	}
	mounted := map[string]bool{}
	for _, m := range mounts {
		mounted[path.Clean(m.ContainerPath)] = true
	}
	if !mounted[hostsPath] {
		if err := b.writeHosts(pod); err != nil {
			return nil, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: hostsPath, HostPath: b.Layout.HostsFile(pod.UID)})
	}
	if at := c.TerminationMessagePath; at != "" {
		file, err := b.makeMessageFile(pod, c.Name, attempt)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: at, HostPath: file})
	}
	return mounts, nil
}

// makeMessageFile makes the empty file that the container, whoever it runs as,
// may write its last words to. A link in its place is not followed.
func (b *Builder) makeMessageFile(pod *v1.Pod, container string, attempt int) (string, error) {
	file := b.messageFile(pod, container, attempt)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", fmt.Errorf("making the termination message file: %w", err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("making the termination message file: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return "", fmt.Errorf("making the termination message file: %w", err)
	}
	err = f.Chmod(0o666) // past the umask
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return file, err
}

// writeHosts writes the pod's /etc/hosts. All containers of the pod share it,
// and it is made again when the address has changed.
func (b *Builder) writeHosts(pod *v1.Pod) error {
	content, err := b.hosts(pod)
	if err != nil {
		return err
	}
	file := b.Layout.HostsFile(pod.UID)
	if old, err := os.ReadFile(file); err == nil && string(old) == content {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return fmt.Errorf("writing the pod's hosts file: %w", err)
	}
	// In place where it exists: running containers have this very file mounted.
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return fmt.Errorf("writing the pod's hosts file: %w", err)
	}
	return os.Chmod(file, 0o644)
}

func (b *Builder) hosts(pod *v1.Pod) (string, error) {
	var out strings.Builder
	if pod.Spec.HostNetwork {
		host, err := os.ReadFile(hostsPath)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("reading the host's %s: %w", hostsPath, err)
		}
		out.WriteString("# Kubernetes-managed hosts file (host network).\n")
		out.Write(host)
	} else {
		hostname, err := b.hostname(pod)
		if err != nil {
			return "", err
		}
		out.WriteString("# Kubernetes-managed hosts file.\n")
		out.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
		out.WriteString("fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		names := strings.TrimSuffix(hostname, "."+b.domain(pod))
		if d := b.domain(pod); d != "" {
			names = names + "." + d + "\t" + names
		}
		for _, ip := range pod.Status.PodIPs {
			out.WriteString(ip.IP + "\t" + names + "\n")
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		out.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			out.WriteString(a.IP + "\t" + strings.Join(a.Hostnames, "\t") + "\n")
		}
	}
	return out.String(), nil
}
