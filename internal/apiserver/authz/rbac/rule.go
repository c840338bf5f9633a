package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff.dev/skiff/internal/apiserver/request"
)

// rule is a PolicyRule made ready for matching: wildcards are found once, and
// resources are split at their slash so that no request has to join strings.
type rule struct {
	anyVerb, anyGroup, anyResource bool

	verbs, groups, names []string
	resources            []target
	paths                []pathRule
}

// target is "resource", "resource/subresource" or "*/subresource".
type target struct{ resource, subresource string }

type pathRule struct {
	path   string
	prefix bool
}

func compile(rules []rbacv1.PolicyRule) []rule {
	out := make([]rule, len(rules))
	for i := range rules {
		src, r := &rules[i], &out[i]
		r.anyVerb = slices.Contains(src.Verbs, rbacv1.VerbAll)
		r.anyGroup = slices.Contains(src.APIGroups, rbacv1.APIGroupAll)
		r.anyResource = slices.Contains(src.Resources, rbacv1.ResourceAll)
		r.verbs, r.groups, r.names = src.Verbs, src.APIGroups, src.ResourceNames
		for _, s := range src.Resources {
			resource, sub, _ := strings.Cut(s, "/")
			r.resources = append(r.resources, target{resource, sub})
		}
		for _, s := range src.NonResourceURLs {
			path, prefix := strings.CutSuffix(s, "*")
			r.paths = append(r.paths, pathRule{path, prefix})
		}
	}
	return out
}

func (r *rule) allows(info *request.Info) bool {
	if !r.anyVerb && !slices.Contains(r.verbs, info.Verb) {
		return false
	}
	if !info.IsResource {
		return r.allowsPath(info.Path)
	}
	if !r.anyGroup && !slices.Contains(r.groups, info.Group) {
		return false
	}
	if !r.anyResource && !r.allowsResource(info) {
		return false
	}
	return len(r.names) == 0 || slices.Contains(r.names, info.Name)
}

func (r *rule) allowsResource(info *request.Info) bool {
	for i := range r.resources {
		t := &r.resources[i]
		if t.subresource != info.Subresource {
			continue
		}
		if t.resource == info.Resource || (t.resource == "*" && t.subresource != "") {
			return true
		}
	}
	return false
}

func (r *rule) allowsPath(path string) bool {
	for _, p := range r.paths {
		if p.path == path || (p.prefix && strings.HasPrefix(path, p.path)) {
			return true
		}
	}
	return false
}

// RuleSet is a list of rules made ready for matching.
type RuleSet struct{ rules []rule }

// Compile makes rules ready for matching.
func Compile(rules []rbacv1.PolicyRule) RuleSet { return RuleSet{compile(rules)} }

// Allows reports whether one of the rules allows what info asks for.
func (s RuleSet) Allows(info *request.Info) bool {
	for i := range s.rules {
		if s.rules[i].allows(info) {
			return true
		}
	}
	return false
}
