package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

// GroupBootstrappers is the group of all who hold a bootstrap token.
const GroupBootstrappers = "system:bootstrappers"

var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapGroup = regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`)
)

// BootstrapTokens authenticates by the tokens with which new nodes join: the
// secrets bootstrap-token-ID of kube-system.
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
type BootstrapTokens struct{ Objects Reader }

var errBootstrap = errors.New("bootstrap token is not valid")

// AuthenticateToken has no opinion about tokens of another form, nor about
// those whose secret is not there, nor about anybody's audiences: the tokens
// name none, see Agnostic.
func (b BootstrapTokens) AuthenticateToken(ctx context.Context, token string, audiences []string) (*request.User, []string, bool, error) {
	m := bootstrapToken.FindStringSubmatch(token)
	if m == nil || len(audiences) > 0 {
		return nil, nil, false, nil
	}
	id := m[1]
	secret, err := get[*corev1.Secret](ctx, b.Objects, secrets, meta.Key{Namespace: metav1.NamespaceSystem, Name: "bootstrap-token-" + id})
	if apierrors.IsNotFound(err) {
		return nil, nil, false, nil
	}
	if err != nil {
		return nil, nil, false, fmt.Errorf("reading bootstrap token: %w", err)
	}
	groups, err := checkBootstrap(secret, id, m[2], time.Now())
	if err != nil {
		return nil, nil, false, err
	}
	return &request.User{Name: "system:bootstrap:" + id, Groups: groups}, nil, true, nil
}

// checkBootstrap checks that the secret is a token of this id and key that may
// be used to authenticate, and returns the groups of its holder.
func checkBootstrap(secret *corev1.Secret, id, key string, now time.Time) ([]string, error) {
	data := func(k string) string { return string(secret.Data[k]) }
	switch {
	case secret.DeletionTimestamp != nil, secret.Type != "bootstrap.kubernetes.io/token",
		subtle.ConstantTimeCompare(secret.Data["token-secret"], []byte(key)) != 1,
		data("token-id") != id,
		data("usage-bootstrap-authentication") != "true":
		return nil, errBootstrap
	}
	if s := data("expiration"); s != "" {
		expires, err := time.Parse(time.RFC3339, s)
		if err != nil || !now.Before(expires) {
			return nil, errBootstrap
		}
	}
	groups := []string{GroupBootstrappers}
	if s := data("auth-extra-groups"); s != "" {
		for _, g := range strings.Split(s, ",") {
			if !bootstrapGroup.MatchString(g) {
				return nil, errBootstrap
			}
			if !slices.Contains(groups, g) {
				groups = append(groups, g)
			}
		}
	}
	return groups, nil
}
