package controlplane

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz/rbac/bootstrap"
	"skiff.dev/skiff/internal/apiserver/request"
)

// A Role is what one of skiff's own controllers declares that it reads and
// writes.
type Role struct {
	Account    string // of kube-system, without the suffix "-controller"
	Controller string
	Rules      []rbacv1.PolicyRule
}

// addOwnPolicy adds to upstream's policy what skiff's own parts need beyond
// it: the controllers' declared rights, and the nodes' view of the network.
func (cp *ControlPlane) addOwnPolicy(p *bootstrap.Policy) {
	for _, r := range cp.cfg.Roles {
		account := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: AccountOf(r.Account)}
		grant(p, "skiff:controller:"+r.Controller, r.Rules, account)
	}
	// Every node routes to the pods of all others, and serves all Services.
	grant(p, "skiff:node-network", []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes", "services", "namespaces"}, Verbs: read},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
	}, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: request.GroupNodes})
}

var read = []string{"get", "list", "watch"}

func grant(p *bootstrap.Policy, name string, rules []rbacv1.PolicyRule, to ...rbacv1.Subject) {
	om := metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}}
	p.ClusterRoles = append(p.ClusterRoles, &rbacv1.ClusterRole{ObjectMeta: om, Rules: rules})
	p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
		ObjectMeta: om, Subjects: to, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	})
}
