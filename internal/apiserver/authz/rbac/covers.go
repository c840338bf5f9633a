package rbac

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff.dev/skiff/internal/apiserver/request"
)

// Covers reports whether have allows everything that want allows, and returns
// the atoms of want that it does not allow.
func Covers(have, want []rbacv1.PolicyRule) (bool, []rbacv1.PolicyRule) {
	var missing []rbacv1.PolicyRule
	for i := range want {
		for _, atom := range atoms(&want[i]) {
			if !slices.ContainsFunc(have, func(h rbacv1.PolicyRule) bool { return ruleCovers(&h, &atom) }) {
				missing = append(missing, atom)
			}
		}
	}
	return len(missing) == 0, missing
}

// atoms splits a rule into rules of one verb on one resource of one group, by
// one name where it has names, or on one path. Rules that allow nothing (no
// verb, no group, …) have none.
func atoms(r *rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, verb := range r.Verbs {
		verbs := []string{verb}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				atom := rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: []string{resource}}
				if len(r.ResourceNames) == 0 {
					out = append(out, atom)
				}
				for _, name := range r.ResourceNames {
					atom.ResourceNames = []string{name}
					out = append(out, atom)
				}
			}
		}
		for _, path := range r.NonResourceURLs {
			out = append(out, rbacv1.PolicyRule{Verbs: verbs, NonResourceURLs: []string{path}})
		}
	}
	return out
}

// ruleCovers reports whether have alone allows all that atom allows.
func ruleCovers(have, atom *rbacv1.PolicyRule) bool {
	if !within(have.Verbs, atom.Verbs[0]) {
		return false
	}
	if len(atom.NonResourceURLs) > 0 {
		return slices.ContainsFunc(have.NonResourceURLs, func(h string) bool { return pathCovers(h, atom.NonResourceURLs[0]) })
	}
	if !within(have.APIGroups, atom.APIGroups[0]) ||
		!slices.ContainsFunc(have.Resources, func(h string) bool { return resourceCovers(h, atom.Resources[0]) }) {
		return false
	}
	if len(have.ResourceNames) == 0 {
		return true
	}
	return len(atom.ResourceNames) == 1 && slices.Contains(have.ResourceNames, atom.ResourceNames[0])
}

func within(have []string, want string) bool {
	return slices.Contains(have, "*") || slices.Contains(have, want)
}

func resourceCovers(have, want string) bool {
	if have == "*" || have == want {
		return true
	}
	_, sub, ok := strings.Cut(want, "/")
	return ok && have == "*/"+sub
}

func pathCovers(have, want string) bool {
	if have == want {
		return true
	}
	prefix, ok := strings.CutSuffix(have, "*")
	return ok && strings.HasPrefix(strings.TrimSuffix(want, "*"), prefix)
}

// compact joins atoms on the same resource into one rule with all their verbs,
// keeping the order in which resources first appear.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	at := map[string]int{}
	for i := range rules {
		rest := rules[i]
		rest.Verbs = nil
		id := Format(&rest)
		if j, ok := at[id]; ok {
			for _, v := range rules[i].Verbs {
				if !slices.Contains(out[j].Verbs, v) {
					out[j].Verbs = append(slices.Clip(out[j].Verbs), v)
				}
			}
			continue
		}
		at[id] = len(out)
		out = append(out, rules[i])
	}
	return out
}

// Format writes a rule on one line, without its empty fields, as upstream's
// messages do.
func Format(r *rbacv1.PolicyRule) string {
	var parts []string
	add := func(name string, list []string) {
		if len(list) == 0 {
			return
		}
		items := make([]string, len(list))
		for i, s := range list {
			items[i] = strconv.Quote(s)
		}
		parts = append(parts, name+":["+strings.Join(items, ", ")+"]")
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("NonResourceURLs", r.NonResourceURLs)
	add("ResourceNames", r.ResourceNames)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}

// CheckEscalation refuses to let u give away rules that u does not have in
// namespace.
func (a *Authorizer) CheckEscalation(u *request.User, namespace string, rules []rbacv1.PolicyRule) error {
	own, resolveErr := a.RulesFor(u, namespace)
	ok, missing := Covers(own, rules)
	if ok {
		return nil
	}
	var lines []string
	for _, m := range compact(missing) {
		lines = append(lines, Format(&m))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.Name, u.Groups, strings.Join(lines, "\n"))
	if resolveErr != nil {
		text += fmt.Sprintf("; resolution errors: [%v]", resolveErr)
	}
	return errors.New(text)
}
