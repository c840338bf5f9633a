// Package review asks the API server who sent a request to a component's own
// port, and whether they may: client certificates are verified by the TLS
// handshake, tokens by TokenReview, and what a user may do is asked by
// SubjectAccessReview. Answers are remembered for a while.
package review

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
)

// User is who sent a request.
type User struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// ErrUnauthenticated means that a request has no valid credential.
var ErrUnauthenticated = errors.New("no valid credential")

const authenticatedGroup = "system:authenticated"

// Lifetimes say how long the API's answers are used.
type Lifetimes struct {
	// Token is for whose a token is, Allowed and Denied for what a user may do.
	Token, Allowed, Denied time.Duration
}

// DefaultLifetimes are those of upstream's kubelet.
func DefaultLifetimes() Lifetimes {
	return Lifetimes{Token: 2 * time.Minute, Allowed: 5 * time.Minute, Denied: 30 * time.Second}
}

const maxRemember = 1000

// Reviews are the API server's answers. It is safe for concurrent use.
type Reviews struct {
	client *client.Client
	last   Lifetimes

	mu     sync.Mutex
	tokens map[string]remembered[User]
	access map[string]remembered[bool]
}

type remembered[T any] struct {
	value T
	until time.Time
}

// New returns reviews that are asked for through c and used for as long as is
// usual.
func New(c *client.Client) *Reviews { return NewFor(c, DefaultLifetimes()) }

// NewFor returns reviews that are asked for through c and used for as long as
// last says.
func NewFor(c *client.Client, last Lifetimes) *Reviews {
	return &Reviews{client: c, last: last, tokens: map[string]remembered[User]{}, access: map[string]remembered[bool]{}}
}

// recall returns an answer that still holds.
func recall[T any](m map[string]remembered[T], key string, now time.Time) (T, bool) {
	e, ok := m[key]
	return e.value, ok && now.Before(e.until)
}

// keep remembers an answer, and forgets old ones before there are too many.
func keep[T any](m map[string]remembered[T], key string, value T, until, now time.Time) {
	if len(m) >= maxRemember {
		for k, e := range m {
			if !now.Before(e.until) {
				delete(m, k)
			}
		}
		if len(m) >= maxRemember {
			clear(m)
		}
	}
	m[key] = remembered[T]{value, until}
}

// Authenticate tells who sent r, or returns ErrUnauthenticated where there is no
// valid credential.
func (a *Reviews) Authenticate(r *http.Request) (User, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName == "" {
			return User{}, ErrUnauthenticated
		}
		return User{Name: subject.CommonName, Groups: append(slices.Clone(subject.Organization), authenticatedGroup)}, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return User{}, ErrUnauthenticated
	}
	return a.review(r.Context(), token)
}

func (a *Reviews) review(ctx context.Context, token string) (User, error) {
	now := time.Now()
	a.mu.Lock()
	user, ok := recall(a.tokens, token, now)
	a.mu.Unlock()
	if ok {
		return user, nil
	}
	got, err := a.client.Create(ctx, client.Ref{GroupVersionResource: authenticationv1.SchemeGroupVersion.WithResource("tokenreviews")},
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return User{}, fmt.Errorf("asking the API about a token: %w", err)
	}
	answer, ok := got.(*authenticationv1.TokenReview)
	if !ok {
		return User{}, fmt.Errorf("asking the API about a token, it answered with a %T", got)
	}
	if !answer.Status.Authenticated {
		return User{}, ErrUnauthenticated
	}
	u := answer.Status.User
	user = User{Name: u.Username, UID: u.UID, Groups: u.Groups, Extra: map[string][]string{}}
	for k, v := range u.Extra {
		user.Extra[k] = v
	}
	a.mu.Lock()
	keep(a.tokens, token, user, now.Add(a.last.Token), now)
	a.mu.Unlock()
	return user, nil
}

// Allowed tells whether user may do what is asked for: ResourceAttributes or
// NonResourceAttributes.
func (a *Reviews) Allowed(ctx context.Context, user User, asked authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	now := time.Now()
	key := fmt.Sprintf("%q %q %q %q %q %q", user.Name, user.UID, user.Groups, user.Extra, asked.ResourceAttributes, asked.NonResourceAttributes)
	a.mu.Lock()
	allowed, ok := recall(a.access, key, now)
	a.mu.Unlock()
	if ok {
		return allowed, nil
	}
	review := &authorizationv1.SubjectAccessReview{Spec: asked}
	review.Spec.User, review.Spec.UID, review.Spec.Groups = user.Name, user.UID, user.Groups
	if len(user.Extra) > 0 {
		review.Spec.Extra = map[string]authorizationv1.ExtraValue{}
		for k, v := range user.Extra {
			review.Spec.Extra[k] = v
		}
	}
	got, err := a.client.Create(ctx, client.Ref{GroupVersionResource: authorizationv1.SchemeGroupVersion.WithResource("subjectaccessreviews")}, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("asking the API about access: %w", err)
	}
	answer, isReview := got.(*authorizationv1.SubjectAccessReview)
	if !isReview {
		return false, fmt.Errorf("asking the API about access, it answered with a %T", got)
	}
	allowed = answer.Status.Allowed && !answer.Status.Denied
	until := now.Add(a.last.Denied)
	if allowed {
		until = now.Add(a.last.Allowed)
	}
	a.mu.Lock()
	keep(a.access, key, allowed, until, now)
	a.mu.Unlock()
	return allowed, nil
}
