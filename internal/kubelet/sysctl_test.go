package kubelet

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestSysctls(t *testing.T) {
	for name, test := range map[string]struct {
		name             string
		hostNet, hostIPC bool
		allowed          []string
		want             string
	}{
		"safe":             {name: "net.ipv4.tcp_syncookies"},
		"safe with slash":  {name: "net/ipv4/tcp_syncookies"},
		"unsafe":           {name: "kernel.msgmax", want: `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		"allowed":          {name: "kernel.msgmax", allowed: []string{"kernel.msg*"}},
		"allowed by name":  {name: "net.core.somaxconn", allowed: []string{"net.core.somaxconn"}},
		"not its longer":   {name: "net.core.somaxconn2", allowed: []string{"net.core.somaxconn"}, want: `forbidden sysctl: "net.core.somaxconn2" not allowlisted`},
		"the host's net":   {name: "net.ipv4.tcp_syncookies", hostNet: true, want: `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
		"the host's IPC":   {name: "kernel.shm_rmid_forced", hostIPC: true, want: `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
		"another's of IPC": {name: "kernel.shm_rmid_forced", hostNet: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &v1.Pod{Spec: v1.PodSpec{
				HostNetwork: test.hostNet, HostIPC: test.hostIPC,
				SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: test.name, Value: "1"}}},
			}}
			reason, got := refuseSysctls(p, test.allowed)
			if got != test.want || (reason == "SysctlForbidden") != (got != "") {
				t.Errorf("%s %q, want %q", reason, got, test.want)
			}
		})
	}
	if reason, _ := refuseSysctls(&v1.Pod{}, nil); reason != "" {
		t.Error(reason)
	}
}
