package kubelet

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
)

type driverRuntime struct {
	cri.Runtime
	answer *runtimeapi.RuntimeConfigResponse
	err    error
}

func (r driverRuntime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return r.answer, r.err
}

func TestRuntimeOfSystemdIsRefused(t *testing.T) {
	of := func(d runtimeapi.CgroupDriver) *runtimeapi.RuntimeConfigResponse {
		return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: d}}
	}
	for name, test := range map[string]struct {
		rt   driverRuntime
		want string
	}{
		"cgroupfs": {driverRuntime{answer: of(runtimeapi.CgroupDriver_CGROUPFS)}, ""},
		"systemd":  {driverRuntime{answer: of(runtimeapi.CgroupDriver_SYSTEMD)}, "set its cgroup driver to cgroupfs"},
		"silent":   {driverRuntime{answer: &runtimeapi.RuntimeConfigResponse{}}, ""},
		"old":      {driverRuntime{err: status.Error(codes.Unimplemented, "unknown method")}, ""},
		"broken":   {driverRuntime{err: errors.New("no connection")}, "asking the container runtime for its cgroup driver: no connection"},
	} {
		k := &Kubelet{Config: Config{Runtime: test.rt}}
		err := k.checkDriver(t.Context())
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
