package bootstrap

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"skiff.dev/skiff/internal/apiserver/request"
)

// componentRoles are those of the processes of a cluster other than its nodes.
func (p *Policy) componentRoles() {
	p.clusterRole("system:kube-scheduler",
		events(),
		can("create").on("coordination.k8s.io", "leases"),
		can("get list update watch").only("coordination.k8s.io", "leases", "kube-scheduler"),
		can(read).on("", "nodes"),
		can("delete get list watch").on("", "pods"),
		can("create").on("", "bindings pods/binding"),
		can("patch update").on("", "pods/status"),
		can(read).on("", "replicationcontrollers services"),
		can(read).on("apps,extensions", "replicasets"),
		can(read).on("apps", "statefulsets"),
		can(read).on("policy", "poddisruptionbudgets"),
		can(read).on("", "persistentvolumeclaims persistentvolumes"),
		can("create").on("authentication.k8s.io", "tokenreviews"),
		can("create").on("authorization.k8s.io", "subjectaccessreviews"),
		can(read).on("storage.k8s.io", "csinodes"),
		can(read).on("", "namespaces"),
		can(read).on("storage.k8s.io", "csidrivers"),
		can(read).on("storage.k8s.io", "csistoragecapacities"),
		can(read).on("storage.k8s.io", "volumeattachments"),
		can(read).on("resource.k8s.io", "deviceclasses"),
		can("get list patch update watch").on("resource.k8s.io", "resourceclaims"),
		can("patch update").on("resource.k8s.io", "resourceclaims/binding resourceclaims/status"),
		can("patch update").on("", "pods/finalizers"),
		can(read).on("resource.k8s.io", "devicetaintrules resourceslices"),
	)
	p.bindCluster("system:kube-scheduler", "system:kube-scheduler", user("system:kube-scheduler"))

	p.clusterRole("system:volume-scheduler",
		can("get list patch update watch").on("", "persistentvolumes"),
		can(read).on("storage.k8s.io", "storageclasses"),
		can("get list patch update watch").on("", "persistentvolumeclaims"))
	p.bindCluster("system:volume-scheduler", "system:volume-scheduler", user("system:kube-scheduler"))

	p.clusterRole("system:kube-controller-manager",
		events(),
		can("create").on("coordination.k8s.io", "leases"),
		can("get list update watch").only("coordination.k8s.io", "leases", "kube-controller-manager"),
		can("create").on("", "secrets serviceaccounts"),
		can("delete").on("", "secrets"),
		can("get").on("", "configmaps namespaces secrets serviceaccounts"),
		can("update").on("", "secrets serviceaccounts"),
		can("create").on("authentication.k8s.io", "tokenreviews"),
		can("create").on("authorization.k8s.io", "subjectaccessreviews"),
		can("list watch").on("*", "*"),
		can("create").on("", "serviceaccounts/token"))
	p.bindCluster("system:kube-controller-manager", "system:kube-controller-manager", user("system:kube-controller-manager"))

	p.clusterRole("system:kube-dns", can("list watch").on("", "endpoints services"))
	p.bindCluster("system:kube-dns", "system:kube-dns", serviceAccount("kube-dns"))

	p.clusterRole("system:kube-aggregator", can(read).on("", "endpoints services"))
	p.clusterRole("system:heapster",
		can(read).on("", "events namespaces nodes pods"),
		can(read).on("extensions", "deployments"))
	p.clusterRole("system:auth-delegator",
		can("create").on("authentication.k8s.io", "tokenreviews"),
		can("create").on("authorization.k8s.io", "subjectaccessreviews"))
	p.clusterRole("system:persistent-volume-provisioner",
		can("create delete get list watch").on("", "persistentvolumes"),
		can("get list update watch").on("", "persistentvolumeclaims"),
		can(read).on("storage.k8s.io", "storageclasses"),
		can("watch").on("", "events"),
		events())
	p.clusterRole("system:kubelet-api-admin",
		can(read).on("", "nodes"),
		can("proxy").on("", "nodes"),
		can("*").on("", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/spec nodes/stats"))
}

// nodeRoles are those of kubelets and what runs beside them. The rights of a
// kubelet come from the Node authorizer; the role system:node is there for
// clusters without it and is bound to nobody.
func (p *Policy) nodeRoles() {
	p.clusterRole("system:node", NodeRules()...)
	p.bindCluster("system:node", "system:node")

	p.clusterRole("system:node-proxier",
		can("list watch").on("", "endpoints services"),
		can(read).on("", "nodes"),
		events(),
		can("list watch").on("discovery.k8s.io", "endpointslices"),
		can("list watch").on("networking.k8s.io", "servicecidrs"))
	p.bindCluster("system:node-proxier", "system:node-proxier", user("system:kube-proxy"))

	p.clusterRole("system:node-problem-detector",
		can("get").on("", "nodes"),
		can("patch").on("", "nodes/status"),
		events())
	p.clusterRole("system:node-bootstrapper",
		can("create get list watch").on("certificates.k8s.io", "certificatesigningrequests"))
}

// NodeRules are what a kubelet does. The Node authorizer allows it what of this
// it does not judge by the object.
func NodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		can("create").on("authentication.k8s.io", "tokenreviews"),
		can("create").on("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
		can(read).on("", "services"),
		can("create get list watch").on("", "nodes"),
		can("patch update").on("", "nodes/status"),
		can("patch update").on("", "nodes"),
		events(),
		can("create delete get list watch").on("", "pods"),
		can("patch update").on("", "pods/status"),
		can("create").on("", "pods/eviction"),
		can(read).on("", "configmaps secrets"),
		can("get").on("", "persistentvolumeclaims persistentvolumes"),
		can("get").on("", "endpoints"),
		can("create get list watch").on("certificates.k8s.io", "certificatesigningrequests"),
		can("create delete get patch update").on("coordination.k8s.io", "leases"),
		can("get").on("storage.k8s.io", "volumeattachments"),
		can("create").on("", "serviceaccounts/token"),
		can("get patch update").on("", "persistentvolumeclaims/status"),
		can(read).on("storage.k8s.io", "csidrivers"),
		can("create delete get patch update").on("storage.k8s.io", "csinodes"),
		can(read).on("node.k8s.io", "runtimeclasses"),
		can("get").on("resource.k8s.io", "resourceclaims"),
		can("deletecollection").on("resource.k8s.io", "resourceslices"),
		can(read).on("certificates.k8s.io", "clustertrustbundles"),
	}
}

// certificateRoles let their holders ask for certificates or approve them, for
// one signer each.
func (p *Policy) certificateRoles() {
	const api, requests = "certificates.k8s.io", "certificatesigningrequests"
	p.clusterRole("system:"+api+":"+requests+":nodeclient", can("create").on(api, requests+"/nodeclient"))
	p.clusterRole("system:"+api+":"+requests+":selfnodeclient", can("create").on(api, requests+"/selfnodeclient"))
	approver := func(role, signer string) {
		p.clusterRole("system:"+api+":"+role, can("approve").only(api, "signers", "kubernetes.io/"+signer))
	}
	approver("kube-apiserver-client-approver", "kube-apiserver-client")
	approver("kube-apiserver-client-kubelet-approver", "kube-apiserver-client-kubelet")
	approver("kubelet-serving-approver", "kubelet-serving")
	approver("legacy-unknown-approver", "legacy-unknown")

	p.clusterRole("system:cluster-trust-bundle-discovery", can(read).on(api, "clustertrustbundles"))
	p.bindCluster("system:cluster-trust-bundle-discovery", "system:cluster-trust-bundle-discovery", group(request.GroupServiceAccounts))
}

// namespacedRoles are those in kube-system and kube-public.
func (p *Policy) namespacedRoles() {
	const system, public = "kube-system", "kube-public"

	p.role(system, "extension-apiserver-authentication-reader",
		can(read).only("", "configmaps", "extension-apiserver-authentication"))
	p.bindRole(system, "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader",
		user("system:kube-controller-manager"), user("system:kube-scheduler"))

	p.role(system, "system::leader-locking-kube-controller-manager",
		can("watch").on("", "configmaps"),
		can("get update").only("", "configmaps", "kube-controller-manager"))
	p.bindRole(system, "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-controller-manager",
		user("system:kube-controller-manager"), serviceAccount("kube-controller-manager"))

	p.role(system, "system::leader-locking-kube-scheduler",
		can("watch").on("", "configmaps"),
		can("get update").only("", "configmaps", "kube-scheduler"))
	p.bindRole(system, "system::leader-locking-kube-scheduler", "system::leader-locking-kube-scheduler",
		user("system:kube-scheduler"), serviceAccount("kube-scheduler"))

	p.role(system, "system:controller:bootstrap-signer", can(read).on("", "secrets"))
	p.bindRole(system, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", serviceAccount("bootstrap-signer"))
	p.role(system, "system:controller:cloud-provider", can("create get list watch").on("", "configmaps"))
	p.bindRole(system, "system:controller:cloud-provider", "system:controller:cloud-provider", serviceAccount("cloud-provider"))
	p.role(system, "system:controller:token-cleaner", can("delete get list watch").on("", "secrets"), events())
	p.bindRole(system, "system:controller:token-cleaner", "system:controller:token-cleaner", serviceAccount("token-cleaner"))

	p.role(public, "system:controller:bootstrap-signer",
		can(read).on("", "configmaps"),
		can("update").only("", "configmaps", "cluster-info"),
		events())
	p.bindRole(public, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", serviceAccount("bootstrap-signer"))
}
