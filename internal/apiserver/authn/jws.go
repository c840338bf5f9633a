package authn

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // ES384 and ES512
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// The signed form of a token: RFC 7515's compact serialization, with the four
// algorithms that the key types allow. A key has exactly one algorithm and
// the token must name it, so that neither "none" nor a public key used as an
// HMAC secret gets anywhere.

// publicKey is a key that tokens may be verified with.
type publicKey struct {
	id   string
	alg  string
	hash crypto.Hash
	key  crypto.PublicKey
}

// maxToken bounds what is looked at at all; real tokens have 1 to 2 KiB.
const maxToken = 32 << 10

func newPublicKey(key crypto.PublicKey) (*publicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("reading service account key: %w", err)
	}
	sum := sha256.Sum256(der)
	k := &publicKey{id: base64.RawURLEncoding.EncodeToString(sum[:]), key: key}
	switch key := key.(type) {
	case *rsa.PublicKey:
		k.alg, k.hash = "RS256", crypto.SHA256
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			k.alg, k.hash = "ES256", crypto.SHA256
		case elliptic.P384():
			k.alg, k.hash = "ES384", crypto.SHA384
		case elliptic.P521():
			k.alg, k.hash = "ES512", crypto.SHA512
		}
	}
	if k.alg == "" {
		return nil, fmt.Errorf("service account key of type %T: must be RSA or ECDSA on P-256, P-384 or P-521", key)
	}
	return k, nil
}

// verify checks a signature over signed.
func (k *publicKey) verify(signed, signature []byte) bool {
	h := k.hash.New()
	h.Write(signed)
	sum := h.Sum(nil)
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, k.hash, sum, signature) == nil
	case *ecdsa.PublicKey:
		n := (key.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*n {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:])
		return ecdsa.Verify(key, sum, r, s)
	}
	return false
}

// sign returns the token of claims.
func sign(signer crypto.Signer, k *publicKey, claims any) (string, error) {
	header, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}{k.alg, k.id})
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString(header) + "." + b64.EncodeToString(payload)
	h := k.hash.New()
	h.Write([]byte(signed))
	signature, err := signer.Sign(rand.Reader, h.Sum(nil), k.hash)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	if key, ok := k.key.(*ecdsa.PublicKey); ok {
		if signature, err = joseSignature(signature, (key.Curve.Params().BitSize+7)/8); err != nil {
			return "", fmt.Errorf("signing token: %w", err)
		}
	}
	return signed + "." + b64.EncodeToString(signature), nil
}

// joseSignature turns crypto's ASN.1 form into two numbers of n bytes.
func joseSignature(der []byte, n int) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	out := make([]byte, 2*n)
	sig.R.FillBytes(out[:n])
	sig.S.FillBytes(out[n:])
	return out, nil
}

// envelope is a token taken apart, not yet verified.
type envelope struct {
	alg, kid          string
	payload           []byte
	signed, signature []byte
}

var errMalformed = errors.New("token is malformed")

// open takes a token apart. It does not judge: the payload may be anything.
func open(token string) (*envelope, error) {
	if len(token) > maxToken {
		return nil, errMalformed
	}
	head, rest, ok := strings.Cut(token, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.Contains(sig, ".") {
		return nil, errMalformed
	}
	header, err := decodePart(head)
	if err != nil {
		return nil, err
	}
	var h struct {
		Alg  string          `json:"alg"`
		Kid  string          `json:"kid"`
		Crit json.RawMessage `json:"crit"`
	}
	if err := json.Unmarshal(header, &h); err != nil || h.Crit != nil {
		return nil, errMalformed
	}
	e := &envelope{alg: h.Alg, kid: h.Kid, signed: []byte(token[:len(head)+1+len(body)])}
	if e.payload, err = decodePart(body); err != nil {
		return nil, err
	}
	if e.signature, err = decodePart(sig); err != nil {
		return nil, err
	}
	return e, nil
}

func decodePart(s string) ([]byte, error) {
	// The decoder skips line ends, and unless strict, bits after the last byte:
	// one token must not have two spellings.
	if strings.ContainsAny(s, "\r\n") {
		return nil, errMalformed
	}
	out, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errMalformed
	}
	return out, nil
}

// verifiedBy reports whether one of keys signed e. A key id in the token is
// compared with those of the keys and never used for anything else.
func (e *envelope) verifiedBy(keys []*publicKey) bool {
	for _, k := range keys {
		if (e.kid == "" || e.kid == k.id) && e.alg == k.alg && k.verify(e.signed, e.signature) {
			return true
		}
	}
	return false
}

// numericDate is RFC 7519's: seconds since 1970, perhaps with a fraction.
type numericDate int64

// UnmarshalJSON accepts any JSON number that fits.
func (d *numericDate) UnmarshalJSON(data []byte) error {
	var f float64
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	if f < 0 || f > 1<<53 {
		return errors.New("date out of range")
	}
	*d = numericDate(f)
	return nil
}

// stringList is RFC 7519's aud: one string or a list of them.
type stringList []string

// UnmarshalJSON accepts both forms.
func (l *stringList) UnmarshalJSON(data []byte) error {
	if data = bytes.TrimSpace(data); len(data) > 0 && data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		*l = stringList{s}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}
