package authz

import (
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"

	"skiff.dev/skiff/internal/apiserver/request"
)

// Rules are what a user may do in a namespace, as far as it can be listed.
type Rules struct {
	Resource    []authorizationv1.ResourceRule
	NonResource []authorizationv1.NonResourceRule
	// Incomplete says that there may be more that nobody can list.
	Incomplete bool
}

// RuleResolver is an authorizer that can list what it would allow. The error
// says what it could not find out; the rules are then the rest.
type RuleResolver interface {
	Rules(user *request.User, namespace string) (Rules, error)
}

// Rules lists what the authorizers of the union allow.
func (u Union) Rules(user *request.User, namespace string) (Rules, error) {
	var all Rules
	var errs []error
	for _, a := range u {
		r, ok := a.(RuleResolver)
		if !ok {
			all.Incomplete = true
			continue
		}
		rules, err := r.Rules(user, namespace)
		if err != nil {
			errs = append(errs, err)
		}
		all.Resource = append(all.Resource, rules.Resource...)
		all.NonResource = append(all.NonResource, rules.NonResource...)
		all.Incomplete = all.Incomplete || rules.Incomplete
	}
	return all, errors.Join(errs...)
}

func everything() Rules {
	all := []string{"*"}
	return Rules{
		Resource:    []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}},
		NonResource: []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}},
	}
}
