package authz

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"skiff.dev/skiff/internal/apiserver/request"
)

// Superuser allows everything to the members of system:masters and has no
// opinion about others. It stands first in every chain of authorizers, so that
// no policy can lock the administrators out.
type Superuser struct{}

// Authorize looks at the user's groups only.
func (Superuser) Authorize(_ context.Context, u *request.User, _ *request.Info) (Decision, string, error) {
	if u.InGroup(request.GroupMasters) {
		return Allow, "", nil
	}
	return NoOpinion, "", nil
}

// Rules lists everything for system:masters.
func (Superuser) Rules(u *request.User, _ string) (Rules, error) {
	if u.InGroup(request.GroupMasters) {
		return everything(), nil
	}
	return Rules{}, nil
}

// AlwaysAllow is the mode of that name.
type AlwaysAllow struct{}

// Authorize allows.
func (AlwaysAllow) Authorize(context.Context, *request.User, *request.Info) (Decision, string, error) {
	return Allow, "", nil
}

// Rules lists everything.
func (AlwaysAllow) Rules(*request.User, string) (Rules, error) { return everything(), nil }

// AlwaysDeny is the mode of that name.
type AlwaysDeny struct{}

// Authorize allows nothing.
func (AlwaysDeny) Authorize(context.Context, *request.User, *request.Info) (Decision, string, error) {
	return NoOpinion, "Everything is forbidden.", nil
}

// ABAC is the list of policies of the mode of that name.
// https://kubernetes.io/docs/reference/access-authn-authz/abac/
type ABAC []Policy

// A Policy allows what its fields describe. Strings match themselves, "*"
// matches everything; a NonResourcePath may end in "*".
type Policy struct {
	User            string `json:"user,omitempty"`
	Group           string `json:"group,omitempty"`
	ReadOnly        bool   `json:"readonly,omitempty"`
	APIGroup        string `json:"apiGroup,omitempty"`
	Resource        string `json:"resource,omitempty"`
	Namespace       string `json:"namespace,omitempty"`
	NonResourcePath string `json:"nonResourcePath,omitempty"`
}

// ParseABAC reads a policy file: one JSON object of kind Policy per line;
// empty lines and lines that begin with # are skipped.
func ParseABAC(data []byte) (ABAC, error) {
	var list ABAC
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		p, err := parsePolicy(line)
		if err != nil {
			return nil, fmt.Errorf("reading ABAC policy: line %d: %w", n, err)
		}
		list = append(list, p)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading ABAC policy: %w", err)
	}
	return list, nil
}

func parsePolicy(line []byte) (Policy, error) {
	var doc struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       Policy `json:"spec"`
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return Policy{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Policy{}, errors.New("more than one object")
	}
	if doc.APIVersion != "abac.authorization.kubernetes.io/v1beta1" || doc.Kind != "Policy" {
		return Policy{}, fmt.Errorf("%s %s is not abac.authorization.kubernetes.io/v1beta1 Policy", doc.APIVersion, doc.Kind)
	}
	return doc.Spec, nil
}

// Authorize allows what one of the policies allows.
func (list ABAC) Authorize(_ context.Context, u *request.User, info *request.Info) (Decision, string, error) {
	for i := range list {
		if list[i].subject(u) && list[i].action(info) {
			return Allow, "", nil
		}
	}
	return NoOpinion, "No policy matched.", nil
}

func (p *Policy) subject(u *request.User) bool {
	if p.User == "" && p.Group == "" {
		return false
	}
	// "*" is every authenticated user: who has not logged in is nobody.
	matches := func(want string, has bool) bool {
		if want == "*" {
			return u.InGroup(request.GroupAuthenticated)
		}
		return want == "" || has
	}
	return matches(p.User, u.Name == p.User) && matches(p.Group, u.InGroup(p.Group))
}

func (p *Policy) action(info *request.Info) bool {
	if p.ReadOnly && info.Verb != "get" && info.Verb != "list" && info.Verb != "watch" {
		return false
	}
	is := func(want, have string) bool { return want == "*" || want == have }
	if info.IsResource {
		return is(p.Namespace, info.Namespace) && is(p.Resource, info.Resource) && is(p.APIGroup, info.Group)
	}
	if prefix, ok := strings.CutSuffix(p.NonResourcePath, "*"); ok {
		return strings.HasPrefix(info.Path, prefix)
	}
	return p.NonResourcePath != "" && p.NonResourcePath == info.Path
}
