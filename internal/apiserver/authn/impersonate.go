package authn

import (
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
)

const (
	impersonateUser  = "Impersonate-User"
	impersonateUID   = "Impersonate-Uid"
	impersonateGroup = "Impersonate-Group"
	impersonateExtra = "Impersonate-Extra-"
)

// Impersonate returns as whom the request is to be carried out: user itself, if
// the request does not ask for another identity, else that identity once every
// part of it has been authorized. The headers are taken out of the request. An
// error is the answer to the client.
// https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/
func Impersonate(r *http.Request, user *request.User, a authz.Authorizer) (*request.User, error) {
	as, err := impersonated(r.Header)
	if err != nil || as == nil {
		return user, err
	}
	for _, ask := range questions(as) {
		if err := authz.Require(r.Context(), a, user, ask); err != nil {
			return nil, err
		}
	}
	addGroups(as)
	for name := range r.Header {
		if impersonates(name) {
			delete(r.Header, name)
		}
	}
	return as, nil
}

func impersonates(header string) bool {
	return header == impersonateUser || header == impersonateUID || header == impersonateGroup ||
		strings.HasPrefix(header, impersonateExtra)
}

// impersonated reads the headers; nil if there are none.
func impersonated(h http.Header) (*request.User, error) {
	as := &request.User{
		Name:   h.Get(impersonateUser),
		UID:    h.Get(impersonateUID),
		Groups: slices.Clone(h.Values(impersonateGroup)),
		Extra:  extraHeaders(h, []string{impersonateExtra}),
	}
	if as.Name != "" {
		return as, nil
	}
	for name := range h {
		if impersonates(name) {
			return nil, apierrors.NewBadRequest("requested " + name + " without impersonating a user name")
		}
	}
	return nil, nil
}

// questions are what the impersonator must be allowed to do: one for each
// value.
func questions(as *request.User) []*request.Info {
	info := func(group, resource, subresource, namespace, name string) *request.Info {
		return &request.Info{
			Verb: "impersonate", IsResource: true, Group: group, Version: "v1",
			Resource: resource, Subresource: subresource, Namespace: namespace, Name: name,
		}
	}
	var list []*request.Info
	if namespace, name, ok := SplitUsername(as.Name); ok {
		list = append(list, info("", "serviceaccounts", "", namespace, name))
	} else {
		list = append(list, info("", "users", "", "", as.Name))
	}
	for _, g := range as.Groups {
		list = append(list, info("", "groups", "", "", g))
	}
	for key, values := range as.Extra {
		for _, v := range values {
			list = append(list, info("authentication.k8s.io", "userextras", key, "", v))
		}
	}
	if as.UID != "" {
		list = append(list, info("authentication.k8s.io", "uids", "", "", as.UID))
	}
	return list
}

// addGroups gives an impersonated user the groups it would have had it
// authenticated itself.
func addGroups(as *request.User) {
	if as.Name == request.Anonymous {
		if !as.InGroup(request.GroupUnauthenticated) {
			as.Groups = append(as.Groups, request.GroupUnauthenticated)
		}
		return
	}
	if namespace, _, ok := SplitUsername(as.Name); ok && len(as.Groups) == 0 {
		as.Groups = []string{request.GroupServiceAccounts, request.GroupServiceAccounts + ":" + namespace}
	}
	if !as.InGroup(request.GroupAuthenticated) && !as.InGroup(request.GroupUnauthenticated) {
		as.Groups = append(as.Groups, request.GroupAuthenticated)
	}
}

// SplitUsername takes the user name of a service account apart.
func SplitUsername(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	if !ok || namespace == "" || name == "" || strings.Contains(name, ":") {
		return "", "", false
	}
	return namespace, name, true
}
