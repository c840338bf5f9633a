package kubelet

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// errDriver is for people who run a runtime of their own.
var errDriver = errors.New("the container runtime leaves control groups to systemd, whose names for them this kubelet does not use: " +
	"set its cgroup driver to cgroupfs (for containerd, SystemdCgroup = false in the options of runc)")

// checkDriver refuses a runtime that would take the paths of pods' control
// groups for something else. One that does not tell is believed to be right.
func (k *Kubelet) checkDriver(ctx context.Context) error {
	got, err := k.Runtime.RuntimeConfig(ctx)
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking the container runtime for its cgroup driver: %w", err)
	}
	if got.GetLinux() != nil && got.Linux.CgroupDriver == runtimeapi.CgroupDriver_SYSTEMD {
		return errDriver
	}
	return nil
}
