package bootstrap

import rbacv1 "k8s.io/api/rbac/v1"

// controller adds the role system:controller:NAME, bound to the service account
// NAME of kube-system, as which upstream's controller manager runs the loop.
func (p *Policy) controller(name string, rules ...rbacv1.PolicyRule) {
	role := "system:controller:" + name
	p.clusterRole(role, rules...)
	p.bindCluster(role, role, serviceAccount(name))
}

func (p *Policy) controllerRoles() {
	p.workloadControllers()
	p.deviceControllers()
	p.storageControllers()
	p.networkControllers()
	p.clusterControllers()
}

func (p *Policy) workloadControllers() {
	p.controller("cronjob-controller",
		can("get list update watch").on("batch", "cronjobs"),
		can("create delete get list patch update watch").on("batch", "jobs"),
		can("update").on("batch", "cronjobs/status"),
		can("update").on("batch", "cronjobs/finalizers"),
		can("delete list").on("", "pods"),
		events())
	p.controller("daemon-set-controller",
		can(read).on("apps,extensions", "daemonsets"),
		can("update").on("apps,extensions", "daemonsets/status"),
		can("update").on("apps,extensions", "daemonsets/finalizers"),
		can("list watch").on("", "nodes"),
		can("create delete list patch watch").on("", "pods"),
		can("create").on("", "pods/binding"),
		can("create delete get list patch update watch").on("apps", "controllerrevisions"),
		events())
	p.controller("deployment-controller",
		can("get list update watch").on("apps,extensions", "deployments"),
		can("update").on("apps,extensions", "deployments/status"),
		can("update").on("apps,extensions", "deployments/finalizers"),
		can("create delete get list patch update watch").on("apps,extensions", "replicasets"),
		can("get list update watch").on("", "pods"),
		events())
	p.controller("disruption-controller",
		can(read).on("apps,extensions", "deployments"),
		can(read).on("apps,extensions", "replicasets"),
		can(read).on("", "replicationcontrollers"),
		can(read).on("policy", "poddisruptionbudgets"),
		can(read).on("apps", "statefulsets"),
		can("update").on("policy", "poddisruptionbudgets/status"),
		can("list watch").on("", "pods"),
		can("patch update").on("", "pods/status"),
		can("get").on("*", "*/scale"),
		events())
	p.controller("horizontal-pod-autoscaler",
		can(read).on("autoscaling", "horizontalpodautoscalers"),
		can("update").on("autoscaling", "horizontalpodautoscalers/status"),
		can("get update").on("*", "*/scale"),
		can("list").on("", "pods"),
		can("list").on("metrics.k8s.io", "pods"),
		can("get list").on("custom.metrics.k8s.io", "*"),
		can("get list").on("external.metrics.k8s.io", "*"),
		events())
	p.controller("job-controller",
		can("get list patch update watch").on("batch", "jobs"),
		can("update").on("batch", "jobs/status"),
		can("update").on("batch", "jobs/finalizers"),
		can("create delete list patch watch").on("", "pods"),
		events())
	p.controller("replicaset-controller",
		can("get list update watch").on("apps,extensions", "replicasets"),
		can("update").on("apps,extensions", "replicasets/status"),
		can("update").on("apps,extensions", "replicasets/finalizers"),
		can("create delete list patch watch").on("", "pods"),
		events())
	p.controller("replication-controller",
		can("get list update watch").on("", "replicationcontrollers"),
		can("update").on("", "replicationcontrollers/status"),
		can("update").on("", "replicationcontrollers/finalizers"),
		can("create delete list patch watch").on("", "pods"),
		events())
	p.controller("statefulset-controller",
		can("list watch").on("", "pods"),
		can(read).on("apps", "statefulsets"),
		can("update").on("apps", "statefulsets/status"),
		can("update").on("apps", "statefulsets/finalizers"),
		can("create delete get patch update").on("", "pods"),
		can("create delete get list patch update watch").on("apps", "controllerrevisions"),
		can("create get").on("", "persistentvolumeclaims"),
		events(),
		can("delete list update watch").on("", "persistentvolumeclaims"))
	p.controller("ttl-after-finished-controller", can("delete get list watch").on("batch", "jobs"), events())
}

func (p *Policy) deviceControllers() {
	p.controller("resource-claim-controller",
		can(read).on("", "pods"),
		can("update").on("", "pods/finalizers"),
		can("create delete get list watch").on("resource.k8s.io", "resourceclaims"),
		can("update patch").on("resource.k8s.io", "resourceclaims resourceclaims/status resourceclaims/binding"),
		can(read).on("resource.k8s.io", "resourceclaimtemplates"),
		can("update patch").on("", "pods/status"),
		events())
	p.controller("device-taint-eviction-controller",
		can("get list watch delete").on("", "pods"),
		can("update patch").on("", "pods/status"),
		can(read).on("resource.k8s.io", "resourceclaims resourceslices deviceclasses devicetaintrules"),
		can("update patch").on("resource.k8s.io", "devicetaintrules/status"),
		events())
}

func (p *Policy) storageControllers() {
	p.controller("attachdetach-controller",
		can("list watch").on("", "persistentvolumeclaims persistentvolumes"),
		can(read).on("", "nodes"),
		can("patch update").on("", "nodes/status"),
		can("list watch").on("", "pods"),
		can("create delete get list watch").on("storage.k8s.io", "volumeattachments"),
		can(read).on("storage.k8s.io", "csidrivers"),
		can(read).on("storage.k8s.io", "csinodes"),
		events())
	p.controller("ephemeral-volume-controller",
		can("update").on("", "pods/finalizers"),
		can(read).on("", "pods"),
		can("create get list watch").on("", "persistentvolumeclaims"),
		events())
	p.controller("expand-controller",
		can("get list patch update watch").on("", "persistentvolumes"),
		can("patch update").on("", "persistentvolumeclaims/status"),
		can(read).on("", "persistentvolumeclaims"),
		can(read).on("storage.k8s.io", "storageclasses"),
		can("get").on("", "endpoints services"),
		can("get").on("", "secrets"),
		events())
	p.controller("persistent-volume-binder",
		can("create delete get list update watch").on("", "persistentvolumes"),
		can("update").on("", "persistentvolumes/status"),
		can("get list update watch").on("", "persistentvolumeclaims"),
		can("update").on("", "persistentvolumeclaims/status"),
		can("create delete get list watch").on("", "pods"),
		can(read).on("storage.k8s.io", "storageclasses"),
		can("create delete get update").on("", "endpoints services"),
		can("get list").on("", "secrets"),
		can("get list watch").on("", "nodes"),
		can("watch").on("", "events"),
		events())
	p.controller("pv-protection-controller",
		can("get list update watch").on("", "persistentvolumes"), events())
	p.controller("pvc-protection-controller",
		can("get list update watch").on("", "persistentvolumeclaims"),
		can("update patch").on("", "persistentvolumeclaims/status"),
		can(read).on("", "pods"),
		events())
	p.controller("vac-protection-controller",
		can("get list update watch").on("storage.k8s.io", "volumeattributesclasses"),
		can(read).on("", "persistentvolumeclaims persistentvolumes"),
		events())
	p.controller("selinux-warning-controller",
		can(read).on("", "pods persistentvolumes persistentvolumeclaims"),
		can(read).on("storage.k8s.io", "csidrivers"),
		events())
}

func (p *Policy) networkControllers() {
	p.controller("endpoint-controller",
		can(read).on("", "pods services"),
		can("create delete get list update").on("", "endpoints"),
		can("create").on("", "endpoints/restricted"),
		events())
	p.controller("endpointslice-controller",
		can(read).on("", "nodes pods services"),
		can("update").on("", "services/finalizers"),
		can("create delete get list update").on("discovery.k8s.io", "endpointslices"),
		can("create").on("discovery.k8s.io", "endpointslices/restricted"),
		events())
	p.controller("endpointslicemirroring-controller",
		can(read).on("", "endpoints services"),
		can("update").on("", "services/finalizers"),
		can("update").on("", "endpoints/finalizers"),
		can("create delete get list update").on("discovery.k8s.io", "endpointslices"),
		can("create").on("discovery.k8s.io", "endpointslices/restricted"),
		events())
	p.controller("route-controller",
		can("list watch").on("", "nodes"),
		can("patch").on("", "nodes/status"),
		events())
	p.controller("service-controller",
		can(read).on("", "services"),
		can("patch update").on("", "services/status"),
		can("list watch").on("", "nodes"),
		events())
	p.controller("service-cidrs-controller",
		can("get list patch update watch").on("networking.k8s.io", "servicecidrs"),
		can("patch update").on("networking.k8s.io", "servicecidrs/finalizers"),
		can("patch update").on("networking.k8s.io", "servicecidrs/status"),
		can(read).on("networking.k8s.io", "ipaddresses"),
		events())
}

func (p *Policy) clusterControllers() {
	p.controller("clusterrole-aggregation-controller",
		can("escalate get list patch update watch").on("rbac.authorization.k8s.io", "clusterroles"))
	p.controller("generic-garbage-collector",
		can("delete get list patch update watch").on("*", "*"),
		events())
	p.controller("namespace-controller",
		can("delete get list watch").on("", "namespaces"),
		can("update").on("", "namespaces/finalize namespaces/status"),
		can("delete deletecollection get list").on("*", "*"))
	p.controller("node-controller",
		can("delete get list patch update").on("", "nodes"),
		can("patch update").on("", "nodes/status"),
		can("patch update").on("", "pods/status"),
		can("delete list").on("", "pods"),
		can("get list").on("", "pods"),
		can("get list watch create update").on("networking.k8s.io", "clustercidrs"),
		events())
	p.controller("pod-garbage-collector",
		can("delete list watch").on("", "pods"),
		can("get list").on("", "nodes"),
		can("patch update").on("", "pods/status"))
	p.controller("resourcequota-controller",
		can("list watch").on("*", "*"),
		can("update").on("", "resourcequotas/status"),
		events())
	p.controller("service-account-controller", can("create").on("", "serviceaccounts"), events())
	p.controller("root-ca-cert-publisher", can("create update").on("", "configmaps"), events())
	p.controller("ttl-controller", can("list patch update watch").on("", "nodes"), events())
	p.controller("validatingadmissionpolicy-status-controller",
		can(read).on("admissionregistration.k8s.io", "validatingadmissionpolicies"),
		can("get patch update").on("admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
		events())
	p.controller("legacy-service-account-token-cleaner",
		can("get").only("", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
		can("delete patch").on("", "secrets"))
	p.controller("storage-version-migrator-controller",
		can("list patch").on("*", "*"),
		can("update").on("storagemigration.k8s.io", "storageversionmigrations/status"))
	p.controller("kube-apiserver-serving-clustertrustbundle-publisher",
		can("attest").only("certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-serving"),
		can("create delete list update watch").on("certificates.k8s.io", "clustertrustbundles"),
		events())
	p.certificateControllers()
}

func (p *Policy) certificateControllers() {
	const api = "certificates.k8s.io"
	const signers = "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown"
	p.controller("certificate-controller",
		can("delete get list watch").on(api, "certificatesigningrequests"),
		can("update").on(api, "certificatesigningrequests/approval certificatesigningrequests/status"),
		can("approve").only(api, "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
		can("sign").only(api, "signers", signers),
		can("create").on("authorization.k8s.io", "subjectaccessreviews"),
		events())
}
