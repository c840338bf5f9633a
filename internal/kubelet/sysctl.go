package kubelet

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// safeSysctls are those that every pod may set: they are of its own namespaces
// and cannot harm others.
// https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// refuseSysctls returns why a pod that sets parameters of the kernel cannot run
// here, or "". allowed are names, and beginnings of names that end in *.
func refuseSysctls(p *v1.Pod, allowed []string) (reason, message string) {
	if p.Spec.SecurityContext == nil {
		return "", ""
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		why := "not allowlisted"
		switch {
		case p.Spec.HostNetwork && strings.HasPrefix(name, "net."):
			why = "not allowed with host net enabled"
		case p.Spec.HostIPC && ofIPC(name):
			why = "not allowed with host ipc enabled"
		case slices.Contains(safeSysctls, name), slices.ContainsFunc(allowed, func(a string) bool { return matchesSysctl(a, name) }):
			continue
		}
		return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q %s", s.Name, why)
	}
	return "", ""
}

func matchesSysctl(pattern, name string) bool {
	pattern = strings.ReplaceAll(pattern, "/", ".")
	prefix, any := strings.CutSuffix(pattern, "*")
	return pattern == name || any && strings.HasPrefix(name, prefix)
}

// ofIPC reports whether a parameter belongs to the IPC namespace.
func ofIPC(name string) bool {
	return slices.ContainsFunc([]string{"kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// Namespaced reports whether a pattern of parameters is of those that a pod can
// have for itself.
func Namespaced(pattern string) bool {
	name := strings.ReplaceAll(pattern, "/", ".")
	return ofIPC(name) || strings.HasPrefix(name, "net.")
}
