// Package resources is the list of everything that the API serves.
package resources

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/apiserver/authn"
	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/resources/apps"
	"skiff.dev/skiff/internal/resources/authentication"
	"skiff.dev/skiff/internal/resources/authorization"
	"skiff.dev/skiff/internal/resources/certificates"
	"skiff.dev/skiff/internal/resources/coordination"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/resources/discovery"
	"skiff.dev/skiff/internal/resources/events"
	"skiff.dev/skiff/internal/resources/metrics"
	"skiff.dev/skiff/internal/resources/node"
	"skiff.dev/skiff/internal/resources/rbac"
	"skiff.dev/skiff/internal/resources/scheduling"
)

// Needs is what some definitions need of the running server.
type Needs struct {
	Tokens     authn.TokenAuthenticator
	Issuer     *authn.Issuer
	Authorizer authz.Authorizer
	Rules      authz.RuleResolver
	Services   core.ServiceConfig
	Bind       func(ctx context.Context, b *corev1.Binding) error
	Usage      metrics.Meter
}

// All returns every resource, in the order in which discovery shows them.
func All(n Needs) []resource.Any {
	coreEvents := events.Core(events.DefaultTTL)
	return []resource.Any{
		resource.Of(core.Bindings(n.Bind)),
		resource.Of(core.ConfigMap),
		resource.Of(core.Endpoints),
		resource.Of(coreEvents),
		resource.Of(core.Namespace),
		resource.Of(core.Node),
		resource.Of(core.Pods(nil)),
		resource.Of(core.PodTemplate),
		resource.Of(core.Secret),
		resource.Of(core.ServiceAccounts(authn.TokenAction(n.Issuer))),
		resource.Of(core.Services(n.Services)),
		resource.Of(apps.Deployment),
		resource.Of(apps.ReplicaSet),
		resource.Of(authentication.SelfSubjectReview),
		resource.Of(authentication.TokenReview(n.Tokens)),
		resource.Of(authorization.LocalSubjectAccessReview(n.Authorizer)),
		resource.Of(authorization.SelfSubjectAccessReview(n.Authorizer)),
		resource.Of(authorization.SelfSubjectRulesReview(n.Rules)),
		resource.Of(authorization.SubjectAccessReview(n.Authorizer)),
		resource.Of(certificates.SigningRequest),
		resource.Of(coordination.Lease),
		resource.Of(discovery.EndpointSlice),
		resource.AliasOf(coreEvents, events.New(events.DefaultTTL), events.ToCore, events.FromCore),
		resource.Of(metrics.Nodes(n.Usage)),
		resource.Of(metrics.Pods(n.Usage)),
		resource.Of(node.RuntimeClass),
		resource.Of(rbac.ClusterRole),
		resource.Of(rbac.ClusterRoleBinding),
		resource.Of(rbac.Role),
		resource.Of(rbac.RoleBinding),
		resource.Of(scheduling.PriorityClass),
	}
}
