package bootstrap

import "skiff.dev/skiff/internal/apiserver/request"

// aggregateTo is the label, up to the role's name, that adds a role to another.
const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

// userRoles are the roles meant for people: cluster-admin, and the three that
// aggregate others, so that those who add kinds can add to them.
func (p *Policy) userRoles() {
	p.clusterRole("cluster-admin", can("*").on("*", "*"), can("*").at("*"))
	p.bindCluster("cluster-admin", "cluster-admin", group(request.GroupMasters))

	const to = aggregateTo
	p.aggregate("admin", to+"admin")
	p.aggregate("edit", to+"edit").Labels[to+"admin"] = "true"
	p.aggregate("view", to+"view").Labels[to+"edit"] = "true"

	p.clusterRole("system:aggregate-to-admin",
		can("create").on("authorization.k8s.io", "localsubjectaccessreviews"),
		can(readWrite).on("rbac.authorization.k8s.io", "roles rolebindings"),
	).Labels[to+"admin"] = "true"

	p.clusterRole("system:aggregate-to-edit",
		can(read).on("", "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"),
		can("impersonate").on("", "serviceaccounts"),
		can(write).on("", "pods pods/attach pods/proxy pods/exec pods/portforward"),
		can("create").on("", "pods/eviction"),
		can(write).on("", "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy"),
		can("create").on("", "serviceaccounts/token"),
		can(write).on("apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"),
		can(write).on("autoscaling", "horizontalpodautoscalers"),
		can(write).on("batch", "cronjobs jobs"),
		can(write).on("extensions", "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale"),
		can(write).on("policy", "poddisruptionbudgets"),
		can(write).on("networking.k8s.io", "ingresses networkpolicies"),
		can(readWrite).on("coordination.k8s.io", "leases"),
		can(write).on("resource.k8s.io", "resourceclaims resourceclaimtemplates"),
	).Labels[to+"edit"] = "true"

	p.clusterRole("system:aggregate-to-view",
		can(read).on("", "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status"),
		can(read).on("", "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status"),
		can(read).on("", "namespaces"),
		can(read).on("discovery.k8s.io", "endpointslices"),
		can(read).on("apps", "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"),
		can(read).on("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
		can(read).on("batch", "cronjobs cronjobs/status jobs jobs/status"),
		can(read).on("extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale"),
		can(read).on("policy", "poddisruptionbudgets poddisruptionbudgets/status"),
		can(read).on("networking.k8s.io", "ingresses ingresses/status networkpolicies"),
		can(read).on("resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
	).Labels[to+"view"] = "true"
}

// metricsRole lets who may view pods see what they use: that of metrics-server,
// whose API the server answers itself.
func (p *Policy) metricsRole() {
	r := p.clusterRole("system:aggregated-metrics-reader", can(read).on("metrics.k8s.io", "pods nodes"))
	for _, to := range []string{"view", "edit", "admin"} {
		r.Labels[aggregateTo+to] = "true"
	}
}

// discoveryRoles are what everybody may see, and ask about themselves.
func (p *Policy) discoveryRoles() {
	all, nobody := group(request.GroupAuthenticated), group(request.GroupUnauthenticated)

	p.clusterRole("system:discovery", can("get").at("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/"))
	p.bindCluster("system:discovery", "system:discovery", all)

	p.clusterRole("system:public-info-viewer", can("get").at("/healthz /livez /readyz /version /version/"))
	p.bindCluster("system:public-info-viewer", "system:public-info-viewer", all, nobody)

	p.clusterRole("system:basic-user",
		can("create").on("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
		can("create").on("authentication.k8s.io", "selfsubjectreviews"))
	p.bindCluster("system:basic-user", "system:basic-user", all)

	p.clusterRole("system:monitoring", can("get").at("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*"))
	p.bindCluster("system:monitoring", "system:monitoring", group("system:monitoring"))

	p.clusterRole("system:service-account-issuer-discovery",
		can("get").at("/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/"))
	p.bindCluster("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", group(request.GroupServiceAccounts))
}
