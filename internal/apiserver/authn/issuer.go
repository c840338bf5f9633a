package authn

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// ServiceAccountConfig says how service account tokens are made and verified.
type ServiceAccountConfig struct {
	// Issuers are the values of the claim iss that are good; new tokens carry
	// the first.
	Issuers []string
	// Signer signs new tokens: RSA or ECDSA. Its public key is always good.
	Signer crypto.Signer
	// Keys are further public keys that tokens may be signed with.
	Keys []crypto.PublicKey
	// Audiences are the names of the API server; empty means the issuers.
	Audiences []string
	// MaxExpiration shortens the life of new tokens; 0 means no limit.
	MaxExpiration time.Duration
	// ExtendExpiration lets the tokens of pods live for a year if they are of
	// the kind that admission injects, so that clients which never read their
	// token file again go on working.
	ExtendExpiration bool
}

// Issuer makes the tokens of service accounts. It is immutable.
type Issuer struct {
	config ServiceAccountConfig
	key    *publicKey   // of the signer
	keys   []*publicKey // all that verify, the signer's first
}

// NewIssuer checks the configuration.
func NewIssuer(c ServiceAccountConfig) (*Issuer, error) {
	if len(c.Issuers) == 0 || slices.Contains(c.Issuers, "") {
		return nil, errors.New("service account issuer: must be set")
	}
	if c.Signer == nil {
		return nil, errors.New("service account signing key: must be set")
	}
	if len(c.Audiences) == 0 {
		c.Audiences = c.Issuers
	}
	i := &Issuer{config: c}
	for _, key := range append([]crypto.PublicKey{c.Signer.Public()}, c.Keys...) {
		k, err := newPublicKey(key)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(i.keys, func(have *publicKey) bool { return have.id == k.id }) {
			i.keys = append(i.keys, k)
		}
	}
	i.key = i.keys[0]
	return i, nil
}

// Audiences are the names of the API server.
func (i *Issuer) Audiences() []string { return i.config.Audiences }

// claims are what a token says: RFC 7519's claims, and Kubernetes' own in the
// form of bound tokens (nested) or of legacy ones (flat).
type claims struct {
	Issuer    string       `json:"iss,omitempty"`
	Subject   string       `json:"sub,omitempty"`
	Audience  stringList   `json:"aud,omitempty"`
	Expiry    *numericDate `json:"exp,omitempty"`
	NotBefore *numericDate `json:"nbf,omitempty"`
	IssuedAt  *numericDate `json:"iat,omitempty"`
	ID        string       `json:"jti,omitempty"`

	Bound *boundClaims `json:"kubernetes.io,omitempty"`
	legacyClaims
}

type boundClaims struct {
	Namespace      string       `json:"namespace,omitempty"`
	Node           *ref         `json:"node,omitempty"`
	Pod            *ref         `json:"pod,omitempty"`
	Secret         *ref         `json:"secret,omitempty"`
	ServiceAccount ref          `json:"serviceaccount"`
	WarnAfter      *numericDate `json:"warnafter,omitempty"`
}

type legacyClaims struct {
	Namespace          string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	SecretName         string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	ServiceAccountName string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	ServiceAccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// ref names one incarnation of an object.
type ref struct {
	Name string    `json:"name,omitempty"`
	UID  types.UID `json:"uid,omitempty"`
}

const legacyIssuer = "kubernetes/serviceaccount"

// Username is the name by which authentication knows a service account.
func Username(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// binding is what a token depends on besides its service account.
type binding struct{ pod, secret, node *ref }

// bound makes the token of a service account. warnAfter is set on tokens that
// live longer than was asked for.
func (i *Issuer) bound(sa *corev1.ServiceAccount, b binding, audiences []string, now time.Time, life, warnAfter time.Duration) (string, error) {
	at := func(d time.Duration) *numericDate {
		n := numericDate(now.Add(d).Unix())
		return &n
	}
	c := claims{
		Issuer: i.config.Issuers[0], Subject: Username(sa.Namespace, sa.Name), Audience: audiences,
		IssuedAt: at(0), NotBefore: at(0), Expiry: at(life), ID: string(uuid.NewUUID()),
		Bound: &boundClaims{
			Namespace: sa.Namespace, ServiceAccount: ref{sa.Name, sa.UID},
			Pod: b.pod, Secret: b.secret, Node: b.node,
		},
	}
	if warnAfter > 0 {
		c.Bound.WarnAfter = at(warnAfter)
	}
	return sign(i.config.Signer, i.key, &c)
}

// LegacyToken makes the token that lives in a secret of type
// kubernetes.io/service-account-token, for as long as the secret does.
func (i *Issuer) LegacyToken(sa *corev1.ServiceAccount, secret string) (string, error) {
	token, err := sign(i.config.Signer, i.key, &claims{
		Issuer: legacyIssuer, Subject: Username(sa.Namespace, sa.Name),
		legacyClaims: legacyClaims{sa.Namespace, secret, sa.Name, string(sa.UID)},
	})
	if err != nil {
		return "", fmt.Errorf("making token of secret %s/%s: %w", sa.Namespace, secret, err)
	}
	return token, nil
}

// lifetime returns how long a token that was asked for seconds lives, and
// after which time of that its use is to be warned about (0 for never).
func (i *Issuer) lifetime(seconds int64, injected bool) (life, warnAfter time.Duration) {
	asked := time.Duration(min(seconds, maxExpirationSeconds)) * time.Second
	if limit := i.config.MaxExpiration; limit > 0 && asked > limit {
		asked = limit
	}
	if injected && i.config.ExtendExpiration && seconds == injectedExpirationSeconds {
		return extendedExpiration, asked
	}
	return asked, 0
}
