// Package node authorizes kubelets: each node may read the objects that the
// pods bound to it need, and write its own. It reads pods, volumes, volume
// attachments and resource slices as change notifications (Changed), from which
// it keeps a graph, and writes nothing. What a kubelet may put into the objects
// it writes is for the admission plugin NodeRestriction.
// https://kubernetes.io/docs/reference/access-authn-authz/node/
package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/authz/rbac/bootstrap"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

const userPrefix = "system:node:"

// NameOf returns the name of the node that the user is: its user name is
// system:node:NAME, and it is in the group system:nodes. The name is empty, and
// is true, for a member of the group with another user name.
func NameOf(u *request.User) (name string, is bool) {
	if u == nil || !u.InGroup(request.GroupNodes) {
		return "", false
	}
	name, _ = strings.CutPrefix(u.Name, userPrefix)
	if name == u.Name {
		name = ""
	}
	return name, true
}

// Authorizer is the mode Node.
type Authorizer struct {
	graph    *graph
	rest     rbac.RuleSet
	caughtUp func(context.Context) error
}

// New returns an authorizer that knows no objects yet. CaughtUp returns when
// Changed has been told of all that a kubelet can have seen: one that has just
// been given a pod may ask for what it needs before the graph has it.
func New(caughtUp func(context.Context) error) *Authorizer {
	return &Authorizer{graph: newGraph(), rest: rbac.Compile(bootstrap.NodeRules()), caughtUp: caughtUp}
}

// Changed tells the authorizer that the object of key is now obj; nil says
// that it is gone. Resources that do not matter are ignored.
func (a *Authorizer) Changed(gr schema.GroupResource, key meta.Key, obj meta.Object) {
	a.graph.changed(gr, key, obj)
}

// Rules cannot be listed: they depend on the objects.
func (a *Authorizer) Rules(u *request.User, _ string) (authz.Rules, error) {
	if _, is := NameOf(u); !is {
		return authz.Rules{}, nil
	}
	return authz.Rules{Incomplete: true}, errors.New("node authorizer does not support user rule resolution")
}

// Authorize has no opinion about users that are not nodes.
func (a *Authorizer) Authorize(ctx context.Context, u *request.User, info *request.Info) (authz.Decision, string, error) {
	node, is := NameOf(u)
	if !is {
		return authz.NoOpinion, "", nil
	}
	if node == "" {
		return authz.NoOpinion, fmt.Sprintf("unknown node for user %q", u.Name), nil
	}
	if _, allowed := a.judge(node, info); allowed {
		return authz.Allow, "", nil
	}
	if err := a.caughtUp(ctx); err != nil {
		return authz.NoOpinion, "", fmt.Errorf("finding out what the node needs: %w", err)
	}
	if reason, allowed := a.judge(node, info); !allowed {
		return authz.NoOpinion, reason, nil
	}
	return authz.Allow, "", nil
}

func (a *Authorizer) judge(node string, info *request.Info) (reason string, allowed bool) {
	if !info.IsResource {
		return "", a.rest.Allows(info)
	}
	switch gr := info.GroupResource(); gr {
	case Secrets, ConfigMaps:
		return a.readNamespaced(node, info)
	case PersistentVolumeClaims:
		if info.Subresource == "status" {
			return a.updateStatus(node, info)
		}
		return a.get(node, info)
	case PersistentVolumes, ResourceClaims, VolumeAttachments:
		return a.get(node, info)
	case ServiceAccounts:
		if info.Subresource == "token" {
			return a.createToken(node, info)
		}
		return a.get(node, info)
	case schema.GroupResource{Resource: "nodes"}:
		return judgeNode(node, info)
	case Pods:
		return a.judgePod(node, info)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		return judgeLease(node, info)
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		return judgeCSINode(node, info)
	case ResourceSlices:
		return a.judgeSlice(node, info)
	}
	return "", a.rest.Allows(info)
}

func (a *Authorizer) related(node string, info *request.Info) (string, bool) {
	if info.Name == "" {
		return "No Object name found", false
	}
	if !a.graph.needs(node, info.GroupResource(), meta.Key{Namespace: info.Namespace, Name: info.Name}) {
		return fmt.Sprintf("no relationship found between node '%s' and this object", node), false
	}
	return "", true
}

// readNamespaced lets the kubelet get one object, or watch it by its name.
func (a *Authorizer) readNamespaced(node string, info *request.Info) (string, bool) {
	switch {
	case !isOneOf(info.Verb, "get", "list", "watch"):
		return "can only read resources of this type", false
	case info.Subresource != "":
		return "cannot read subresource", false
	case info.Namespace == "":
		return "can only read namespaced object of this type", false
	}
	return a.related(node, info)
}

func (a *Authorizer) get(node string, info *request.Info) (string, bool) {
	switch {
	case info.Verb != "get":
		return "can only get individual resources of this type", false
	case info.Subresource != "":
		return "cannot get subresource", false
	}
	return a.related(node, info)
}

func (a *Authorizer) updateStatus(node string, info *request.Info) (string, bool) {
	if !isOneOf(info.Verb, "get", "update", "patch") {
		return "can only get/update/patch this type", false
	}
	return a.related(node, info)
}

func (a *Authorizer) createToken(node string, info *request.Info) (string, bool) {
	if info.Verb != "create" {
		return "can only create tokens for individual service accounts", false
	}
	return a.related(node, info)
}

func judgeNode(node string, info *request.Info) (string, bool) {
	switch info.Subresource {
	case "":
		if isOneOf(info.Verb, "create", "update", "patch") {
			return "", true // NodeRestriction looks at the object
		}
		if !isOneOf(info.Verb, "get", "list", "watch") {
			return "", false
		}
		switch {
		case info.Name == node || selects(info.FieldSelector, "metadata.name", node):
			return "", true
		case info.Name == "":
			return fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node), false
		default:
			return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, info.Name), false
		}
	case "status":
		return "", isOneOf(info.Verb, "update", "patch")
	}
	return "", false
}

func (a *Authorizer) judgePod(node string, info *request.Info) (string, bool) {
	switch info.Subresource {
	case "":
		switch info.Verb {
		case "create", "delete": // NodeRestriction looks at the object
			return "", true
		case "get":
			return a.related(node, info)
		case "list", "watch":
			if selects(info.FieldSelector, "spec.nodeName", node) {
				return "", true
			}
			if info.Name != "" {
				return a.related(node, info)
			}
			return "can only list/watch pods with spec.nodeName field selector", false
		}
	case "status":
		return "", isOneOf(info.Verb, "update", "patch")
	case "eviction":
		return "", info.Verb == "create"
	}
	return "", false
}

func judgeLease(node string, info *request.Info) (string, bool) {
	switch {
	case !isOneOf(info.Verb, "get", "create", "update", "patch", "delete"):
		return "can only get, create, update, patch, or delete a node lease", false
	case info.Namespace != "kube-node-lease":
		return `can only access leases in the "kube-node-lease" system namespace`, false
	case info.Verb != "create" && info.Name != node:
		// A create has its name in the body: NodeRestriction looks there.
		return "can only access node lease with the same name as the requesting node", false
	}
	return "", true
}

func judgeCSINode(node string, info *request.Info) (string, bool) {
	switch {
	case !isOneOf(info.Verb, "get", "create", "update", "patch", "delete"):
		return "can only get, create, update, patch, or delete a CSINode", false
	case info.Subresource != "":
		return "cannot authorize CSINode subresources", false
	case info.Verb != "create" && info.Name != node:
		return "can only access CSINode with the same name as the requesting node", false
	}
	return "", true
}

func (a *Authorizer) judgeSlice(node string, info *request.Info) (string, bool) {
	if info.Subresource != "" {
		return "cannot authorize ResourceSlice subresources", false
	}
	switch info.Verb {
	case "create": // NodeRestriction looks at the object
		return "", true
	case "get", "update", "patch", "delete":
		return a.related(node, info)
	case "list", "watch", "deletecollection":
		if selects(info.FieldSelector, "spec.nodeName", node) {
			return "", true
		}
		return "can only list/watch/deletecollection resourceslices with nodeName field selector", false
	}
	return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", false
}

// selects reports whether a field selector admits only objects whose field has
// the value.
func selects(selector, field, value string) bool {
	if selector == "" {
		return false
	}
	s, err := fields.ParseSelector(selector)
	if err != nil {
		return false
	}
	got, ok := s.RequiresExactMatch(field)
	return ok && got == value
}

func isOneOf(s string, list ...string) bool {
	for _, l := range list {
		if s == l {
			return true
		}
	}
	return false
}
