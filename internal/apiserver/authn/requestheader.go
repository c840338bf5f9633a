package authn

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"skiff.dev/skiff/internal/apiserver/request"
)

// FrontProxy authenticates by headers that a proxy sets which has itself
// authenticated the user. The proxy proves itself by a client certificate of a
// CA of its own; headers of anybody else are ignored.
type FrontProxy struct {
	Roots *x509.CertPool
	// AllowedNames are the common names that the proxy's certificate may have;
	// empty allows all that Roots signed.
	AllowedNames []string
	// The names of the headers; the first that is there counts, but groups are
	// taken from all. ExtraPrefixes are prefixes.
	UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// DefaultFrontProxy takes the headers X-Remote-User, -Uid, -Group and -Extra-*.
func DefaultFrontProxy(roots *x509.CertPool, allowedNames ...string) *FrontProxy {
	return &FrontProxy{
		Roots: roots, AllowedNames: allowedNames,
		UserHeaders: []string{"X-Remote-User"}, UIDHeaders: []string{"X-Remote-Uid"},
		GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"},
	}
}

// StandardHeaders are the names that proxies use where nothing else is agreed
// on. What bears them never reaches what the server passes requests on to.
var StandardHeaders = DefaultFrontProxy(nil)

// Authenticate takes the headers out of the request once they are believed.
func (p *FrontProxy) Authenticate(r *http.Request) (*request.User, bool, error) {
	name := firstHeader(r.Header, p.UserHeaders)
	if name == "" || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	chain, err := verifyChain(r, p.Roots, time.Now())
	if err != nil {
		// Not the proxy: the certificate may be good for a user of its own.
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("verifying front proxy certificate: %w", err)
	}
	cn := chain[0].Subject.CommonName
	if len(p.AllowedNames) > 0 && !slices.Contains(p.AllowedNames, cn) {
		return nil, false, fmt.Errorf("x509: subject with cn=%s is not in the allowed list", cn)
	}
	user := &request.User{
		Name: name, UID: firstHeader(r.Header, p.UIDHeaders),
		Extra: extraHeaders(r.Header, p.ExtraPrefixes),
	}
	for _, h := range p.GroupHeaders {
		user.Groups = append(user.Groups, r.Header.Values(h)...)
	}
	p.Strip(r.Header)
	return user, true, nil
}

// Strip removes all headers by which the proxy would say who the user is.
func (p *FrontProxy) Strip(h http.Header) {
	for _, names := range [][]string{p.UserHeaders, p.UIDHeaders, p.GroupHeaders} {
		for _, name := range names {
			h.Del(name)
		}
	}
	for name := range h {
		if _, ok := extraKey(name, p.ExtraPrefixes); ok {
			delete(h, name)
		}
	}
}

func firstHeader(h http.Header, names []string) string {
	for _, name := range names {
		if v := strings.TrimSpace(h.Get(name)); v != "" {
			return v
		}
	}
	return ""
}

// extraKey returns the key that a header such as X-Remote-Extra-Scopes has
// after its prefix: lower case and with percent signs decoded.
func extraKey(header string, prefixes []string) (string, bool) {
	for _, prefix := range prefixes {
		if len(header) <= len(prefix) || !strings.EqualFold(header[:len(prefix)], prefix) {
			continue
		}
		key := strings.ToLower(header[len(prefix):])
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		return key, true
	}
	return "", false
}

func extraHeaders(h http.Header, prefixes []string) map[string][]string {
	extra := map[string][]string{}
	for name, values := range h {
		if key, ok := extraKey(name, prefixes); ok {
			extra[key] = append(extra[key], values...)
		}
	}
	return extra
}

// WithoutHeaders takes the headers of front proxies out of every request that
// another authenticator has believed: no server behind this one may take them
// for what a proxy says.
type WithoutHeaders struct {
	Authenticator
	Proxies []*FrontProxy
}

// Authenticate asks the authenticator first.
func (w WithoutHeaders) Authenticate(r *http.Request) (*request.User, bool, error) {
	user, ok, err := w.Authenticator.Authenticate(r)
	if ok {
		for _, p := range w.Proxies {
			p.Strip(r.Header)
		}
	}
	return user, ok, err
}
