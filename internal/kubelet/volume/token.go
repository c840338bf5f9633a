package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/pod"
)

const (
	defaultTokenSeconds = 3600
	// A token is renewed when a fifth of its life is left or it is a day old,
	// whichever is first, and up to tokenJitter earlier: the pods of a node
	// that start together shall not renew together.
	maxTokenAge = 24 * time.Hour
	tokenJitter = 10 * time.Second
	// outageRetry is the wait after the API could not be asked.
	outageRetry = 30 * time.Second
)

// tokenKey tells the tokens of one pod apart.
type tokenKey struct {
	volume, path, audience string
	seconds                int64
}

type token struct {
	text  string
	renew time.Time
}

// addToken adds a token bound to the pod, a new one when that is due, and
// returns when it is due next.
func (m *Manager) addToken(ctx context.Context, out files, v *podVolumes, volume string, s *v1.ServiceAccountTokenProjection, mode os.FileMode) (time.Time, error) {
	seconds := int64(defaultTokenSeconds)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	key := tokenKey{volume: volume, path: s.Path, audience: s.Audience, seconds: seconds}
	t, ok := v.tokens[key]
	if !ok || !time.Now().Before(t.renew) {
		var err error
		if t, err = m.requestToken(ctx, v.pod, s.Audience, seconds); err != nil {
			return time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
		}
		v.tokens[key] = t
	}
	f := file{content: []byte(t.text), mode: mode}
	user := commonUser(v.pod)
	if user != nil || fsGroup(v.pod) != nil {
		f.mode, f.user = 0o600, user // the group's right to read is added with the group
	}
	out[s.Path] = f
	return t.renew, nil
}

func (m *Manager) requestToken(ctx context.Context, p *v1.Pod, audience string, seconds int64) (token, error) {
	account := p.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	now := time.Now()
	got, err := m.Objects.Token(ctx, p.Namespace, account, request)
	if err != nil {
		return token{}, err
	}
	life := got.Status.ExpirationTimestamp.Sub(now)
	if got.Spec.ExpirationSeconds != nil && *got.Spec.ExpirationSeconds > 0 {
		// The server may hand out more life than it tells the client to use.
		life = min(life, time.Duration(*got.Spec.ExpirationSeconds)*time.Second)
	}
	return token{text: got.Status.Token, renew: now.Add(renewAfter(life, rand.N(tokenJitter)))}, nil
}

// renewAfter is how long a token with that much life is used.
func renewAfter(life, jitter time.Duration) time.Duration {
	use := min(life-life/5, maxTokenAge)
	return max(use-min(jitter, use/10), 0)
}

// retryAfterOutage is when to try again what the API could not answer.
func retryAfterOutage() time.Time { return time.Now().Add(outageRetry + rand.N(outageRetry)) }

// commonUser is the user that all containers of the pod run as, nil if they
// differ or one leaves it to its image. The token belongs to that user then.
// https://kubernetes.io/docs/concepts/storage/projected-volumes/#securitycontext-interactions
func commonUser(p *v1.Pod) *int64 {
	var user *int64
	same := true
	for c := range pod.Containers(&p.Spec) {
		var own *int64
		if sc := p.Spec.SecurityContext; sc != nil {
			own = sc.RunAsUser
		}
		if sc := c.SecurityContext; sc != nil && sc.RunAsUser != nil {
			own = sc.RunAsUser
		}
		if own == nil || user != nil && *user != *own {
			same = false
			break
		}
		user = own
	}
	if !same {
		return nil
	}
	return user
}
