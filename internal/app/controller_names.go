package app

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// upstreamController is a controller that --controllers may name: by its name,
// or by the one it had before 1.28.
type upstreamController struct {
	name, older string
	off         bool // unless it is asked for by name
}

// upstreamControllers are those of kube-controller-manager --help. Ours have
// the same names without the ending "-controller".
var upstreamControllers = []upstreamController{
	{"bootstrap-signer-controller", "bootstrapsigner", true},
	{"certificatesigningrequest-approving-controller", "csrapproving", false},
	{"certificatesigningrequest-cleaner-controller", "csrcleaner", false},
	{"certificatesigningrequest-signing-controller", "csrsigning", false},
	{"clusterrole-aggregation-controller", "clusterrole-aggregation", false},
	{"cronjob-controller", "cronjob", false},
	{"daemonset-controller", "daemonset", false},
	{"deployment-controller", "deployment", false},
	{"device-taint-eviction-controller", "", false},
	{"disruption-controller", "disruption", false},
	{"endpoints-controller", "endpoint", false},
	{"endpointslice-controller", "endpointslice", false},
	{"endpointslice-mirroring-controller", "endpointslicemirroring", false},
	{"ephemeral-volume-controller", "ephemeral-volume", false},
	{"garbage-collector-controller", "garbagecollector", false},
	{"horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", false},
	{"job-controller", "job", false},
	{"kube-apiserver-serving-clustertrustbundle-publisher-controller", "", false},
	{"legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", false},
	{"namespace-controller", "namespace", false},
	{"node-ipam-controller", "nodeipam", false},
	{"node-lifecycle-controller", "nodelifecycle", false},
	{"persistentvolume-attach-detach-controller", "attachdetach", false},
	{"persistentvolume-binder-controller", "persistentvolume-binder", false},
	{"persistentvolume-expander-controller", "persistentvolume-expander", false},
	{"persistentvolume-protection-controller", "pv-protection", false},
	{"persistentvolumeclaim-protection-controller", "pvc-protection", false},
	{"pod-garbage-collector-controller", "podgc", false},
	{"podcertificaterequest-cleaner-controller", "", false},
	{"podgroup-protection-controller", "", false},
	{"replicaset-controller", "replicaset", false},
	{"replicationcontroller-controller", "replicationcontroller", false},
	{"resourceclaim-controller", "resource-claim-controller", false},
	{"resourcepoolstatusrequest-controller", "", false},
	{"resourcequota-controller", "resourcequota", false},
	{"root-ca-certificate-publisher-controller", "root-ca-cert-publisher", false},
	{"selinux-warning-controller", "", true},
	{"service-cidr-controller", "", false},
	{"serviceaccount-controller", "serviceaccount", false},
	{"serviceaccount-token-controller", "serviceaccount-token", false},
	{"statefulset-controller", "statefulset", false},
	{"storage-version-migrator-controller", "", false},
	{"storageversion-garbage-collector-controller", "storage-version-gc", false},
	{"taint-eviction-controller", "", false},
	{"token-cleaner-controller", "tokencleaner", true},
	{"ttl-after-finished-controller", "ttl-after-finished", false},
	{"ttl-controller", "ttl", false},
	{"validatingadmissionpolicy-status-controller", "", false},
	{"volumeattributesclass-protection-controller", "", false},
}

// ours is the name that the controller has here.
func (u upstreamController) ours() string { return strings.TrimSuffix(u.name, "-controller") }

// controllerNamed finds a controller by any of its names.
func controllerNamed(name string) (upstreamController, bool) {
	i := slices.IndexFunc(upstreamControllers, func(u upstreamController) bool {
		return name == u.name || name == u.ours() || name == u.older && name != ""
	})
	if i < 0 {
		return upstreamController{}, false
	}
	return upstreamControllers[i], true
}

// wantsController reports whether --controllers asks for the controller, which
// is named as it is here. The first element that names it decides, and
// without one *, unless the controller is off by default.
func wantsController(elements []string, ours string) bool {
	all := false
	for _, e := range elements {
		if e == "*" {
			all = true
			continue
		}
		name, not := strings.CutPrefix(e, "-")
		if u, ok := controllerNamed(name); ok && u.ours() == ours {
			return !not
		}
	}
	u, known := controllerNamed(ours)
	return all && !(known && u.off)
}

// checkControllers reports names in --controllers that nothing has, and warns
// of those that are asked for and not served.
func checkControllers(elements, served []string) error {
	for _, e := range elements {
		if e == "*" {
			continue
		}
		name, not := strings.CutPrefix(e, "-")
		u, known := controllerNamed(name)
		if !known {
			return fmt.Errorf("--controllers: there is no controller %q; there are %s", name, strings.Join(controllerList(), ", "))
		}
		if !not && !slices.Contains(served, u.ours()) {
			slog.Warn("a controller that --controllers asks for is not served by this program; nothing does its work", "controller", u.name)
		}
	}
	return nil
}

func controllerList() (names []string) {
	for _, u := range upstreamControllers {
		names = append(names, u.name)
	}
	return names
}
