// Package authn finds out who makes a request: by client certificate, by
// bearer token (service account, bootstrap, static), by the headers of a
// trusted front proxy, or not at all (anonymous); and it lets those who may
// act as somebody else. It issues the tokens of service accounts, too. It reads
// secrets, service accounts, pods and nodes, and writes nothing.
package authn

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

// Authenticator says who makes a request. The three answers are a user; ok
// false, where the request has no credential of this kind; and an error, where
// it has one that is not good. The last is a 401 for the client: a request
// with a bad credential is never taken for an anonymous one.
type Authenticator interface {
	Authenticate(r *http.Request) (user *request.User, ok bool, err error)
}

// TokenAuthenticator says whose a bearer token is. Audiences are those that
// the caller stands for, any of which the token must be meant for; nil means
// the API server. It returns those of them that the token is meant for.
type TokenAuthenticator interface {
	AuthenticateToken(ctx context.Context, token string, audiences []string) (user *request.User, meantFor []string, ok bool, err error)
}

// Reader reads the objects that credentials depend on. It may answer from a
// cache, but must have asked the store before it answers NotFound: the token
// of a pod that was created just now must be good. Objects are read-only.
type Reader interface {
	Get(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error)
}

var (
	secrets         = schema.GroupResource{Resource: "secrets"}
	pods            = schema.GroupResource{Resource: "pods"}
	nodes           = schema.GroupResource{Resource: "nodes"}
	serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}
)

var errInvalidToken = errors.New("invalid bearer token")

// Unauthorized is the answer to a request that Authenticate refuses.
func Unauthorized() *apierrors.StatusError { return apierrors.NewUnauthorized("Unauthorized") }

// Chain asks each authenticator until one knows the user. A credential that one
// of them refuses may be good for a later one; if none takes it, it is refused.
type Chain []Authenticator

// Authenticate returns the first user found, as a member of
// system:authenticated. Without any credential ok is false.
func (c Chain) Authenticate(r *http.Request) (*request.User, bool, error) {
	var errs []error
	for _, a := range c {
		user, ok, err := a.Authenticate(r)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			return authenticated(user), true, nil
		}
	}
	return nil, false, errors.Join(errs...)
}

// authenticated returns user as a member of system:authenticated. Users come
// out of caches and are shared, hence the copy.
func authenticated(user *request.User) *request.User {
	if user.InGroup(request.GroupAuthenticated) || user.InGroup(request.GroupUnauthenticated) {
		return user
	}
	out := *user
	out.Groups = append(slices.Clip(user.Groups), request.GroupAuthenticated)
	return &out
}

// WithAnonymous lets requests without a credential to one of the paths through
// as system:anonymous, and refuses those to others with an error.
type WithAnonymous struct {
	Authenticator
	Paths []string
}

// AnonymousPaths are open to everybody by default: whether the server is well,
// and its version.
var AnonymousPaths = []string{"/livez", "/readyz", "/healthz", "/version", "/version/"}

// Authenticate asks the authenticator first.
func (a WithAnonymous) Authenticate(r *http.Request) (*request.User, bool, error) {
	user, ok, err := a.Authenticator.Authenticate(r)
	if ok || err != nil {
		return user, ok, err
	}
	if !slices.Contains(a.Paths, r.URL.Path) {
		return nil, false, nil
	}
	return &request.User{Name: request.Anonymous, Groups: []string{request.GroupUnauthenticated}}, true, nil
}

// Tokens asks each token authenticator in turn.
type Tokens []TokenAuthenticator

// AuthenticateToken returns the first user found, as a member of
// system:authenticated.
func (t Tokens) AuthenticateToken(ctx context.Context, token string, audiences []string) (*request.User, []string, bool, error) {
	var errs []error
	for _, a := range t {
		user, meantFor, ok, err := a.AuthenticateToken(ctx, token, audiences)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			return authenticated(user), meantFor, true, nil
		}
	}
	return nil, nil, false, errors.Join(errs...)
}

// Agnostic wraps tokens that name no audience: they are good for the API
// server, whose names are Audiences, and for nobody else.
type Agnostic struct {
	TokenAuthenticator
	Audiences []string
}

// AuthenticateToken has no opinion if the caller stands for others only.
func (a Agnostic) AuthenticateToken(ctx context.Context, token string, audiences []string) (*request.User, []string, bool, error) {
	meantFor := a.Audiences
	if len(audiences) > 0 {
		meantFor = intersect(a.Audiences, audiences)
	}
	if len(meantFor) == 0 {
		return nil, nil, false, nil
	}
	user, _, ok, err := a.TokenAuthenticator.AuthenticateToken(ctx, token, nil)
	return user, meantFor, ok, err
}

func intersect(a, b []string) []string {
	var both []string
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}

// Bearer authenticates by the token in the Authorization header or, since
// browsers cannot set that, in the WebSocket subprotocol
// base64url.bearer.authorization.k8s.io.TOKEN.
type Bearer struct{ Tokens TokenAuthenticator }

// Authenticate takes the token out of the request once it has proved good, so
// that it is never passed on to another server.
func (b Bearer) Authenticate(r *http.Request) (*request.User, bool, error) {
	token, taken := bearerToken(r), func() { r.Header.Del("Authorization") }
	if token == "" {
		var err error
		if token, taken, err = protocolToken(r); err != nil || token == "" {
			return nil, false, err
		}
	}
	user, _, ok, err := b.Tokens.AuthenticateToken(r.Context(), token, nil)
	if err != nil || !ok {
		return nil, false, errors.Join(errInvalidToken, err)
	}
	taken()
	return user, true, nil
}

func bearerToken(r *http.Request) string {
	scheme, token, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	// More than one space is not in the grammar: upstream takes it for no token.
	token, _, _ = strings.Cut(token, " ")
	return token
}
