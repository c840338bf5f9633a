package authn

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
)

// The two documents by which others can verify service account tokens.
// https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery

// The paths at which the documents are served.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeySetPath        = "/openid/v1/jwks"
)

// OpenIDConfiguration is the document at ConfigurationPath, as JSON; keySetURI
// is where the other one can be fetched.
func (i *Issuer) OpenIDConfiguration(keySetURI string) ([]byte, error) {
	var algs []string
	for _, k := range i.keys {
		if !slices.Contains(algs, k.alg) {
			algs = append(algs, k.alg)
		}
	}
	return json.Marshal(struct {
		Issuer   string   `json:"issuer"`
		KeySet   string   `json:"jwks_uri"`
		Types    []string `json:"response_types_supported"`
		Subjects []string `json:"subject_types_supported"`
		Algs     []string `json:"id_token_signing_alg_values_supported"`
	}{i.config.Issuers[0], keySetURI, []string{"id_token"}, []string{"public"}, algs})
}

type jwk struct {
	Use string `json:"use"`
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Crv string `json:"crv,omitempty"`
	Alg string `json:"alg"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
}

// KeySet is the document at KeySetPath, as JSON: the public keys.
func (i *Issuer) KeySet() ([]byte, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	list := []jwk{}
	for _, k := range i.keys {
		j := jwk{Use: "sig", Kid: k.id, Alg: k.alg}
		switch key := k.key.(type) {
		case *rsa.PublicKey:
			j.Kty, j.N, j.E = "RSA", b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes())
		case *ecdsa.PublicKey:
			point, err := key.Bytes() // 4, x, y
			if err != nil {
				return nil, fmt.Errorf("encoding key %s: %w", k.id, err)
			}
			n := len(point) / 2
			j.Kty, j.Crv, j.X, j.Y = "EC", key.Curve.Params().Name, b64(point[1:1+n]), b64(point[1+n:])
		}
		list = append(list, j)
	}
	return json.Marshal(struct {
		Keys []jwk `json:"keys"`
	}{list})
}
