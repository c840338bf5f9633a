package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
)

// JoinToken is what a new node is given: a bootstrap token, by which the
// cluster knows the node, and a pin, by which the node knows the cluster.
// Its text is "<id>.<secret>@sha256:<hex>", the pin being what kubeadm calls
// the discovery token CA cert hash.
type JoinToken struct {
	// ID (6 characters) is public, Secret (16) is not; both are of [a-z0-9].
	ID, Secret string
	// Pin is the SHA-256 of the cluster CA's public key (its SubjectPublicKeyInfo).
	Pin [sha256.Size]byte
}

var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	errJoinToken   = errors.New(`want "<id>.<secret>@sha256:<64 hexadecimal digits>", as printed by "skiff token create"`)
)

// NewJoinToken makes a token for the cluster of the CA.
func NewJoinToken(ca *x509.Certificate) (JoinToken, error) {
	id, err := randomText(6)
	if err != nil {
		return JoinToken{}, err
	}
	secret, err := randomText(16)
	if err != nil {
		return JoinToken{}, err
	}
	return JoinToken{ID: id, Secret: secret, Pin: PinOf(ca)}, nil
}

// randomText returns n characters of [a-z0-9], each as likely as the others.
func randomText(n int) (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	const fair = 256 - 256%len(letters)
	out := make([]byte, 0, n)
	var b [32]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return "", fmt.Errorf("making a token: %w", err)
		}
		for _, c := range b {
			if int(c) >= fair {
				continue
			}
			if out = append(out, letters[int(c)%len(letters)]); len(out) == n {
				return string(out), nil
			}
		}
	}
}

// PinOf returns the pin of a CA.
func PinOf(ca *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(ca.RawSubjectPublicKeyInfo)
}

// ParseJoinToken reads a token's text. The error never contains the secret.
func ParseJoinToken(text string) (JoinToken, error) {
	bootstrap, pin, found := strings.Cut(strings.TrimSpace(text), "@sha256:")
	if !found {
		return JoinToken{}, fmt.Errorf("join token: no pin of the cluster's CA in it: %w", errJoinToken)
	}
	parts := bootstrapToken.FindStringSubmatch(bootstrap)
	if parts == nil {
		return JoinToken{}, fmt.Errorf("join token: its first part is not a bootstrap token: %w", errJoinToken)
	}
	sum, err := hex.DecodeString(pin)
	if err != nil || len(sum) != sha256.Size {
		return JoinToken{}, fmt.Errorf("join token: its pin is not a SHA-256: %w", errJoinToken)
	}
	t := JoinToken{ID: parts[1], Secret: parts[2]}
	copy(t.Pin[:], sum)
	return t, nil
}

// Bearer is the bootstrap token to authenticate with: "<id>.<secret>".
func (t JoinToken) Bearer() string { return t.ID + "." + t.Secret }

// Text is the whole token, with its secret.
func (t JoinToken) Text() string { return t.Bearer() + "@sha256:" + hex.EncodeToString(t.Pin[:]) }

// String hides the secret, so that a token in a log gives nothing away.
func (t JoinToken) String() string { return t.ID + ".****" }

// LogValue hides the secret from structured logs too.
func (t JoinToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Trust returns the one CA of a bundle that the pin is of. The bundle may have
// come over a connection that nothing vouched for; what it holds besides the
// pinned CA is not to be trusted.
func (t JoinToken) Trust(bundle []byte) (*x509.Certificate, error) {
	certs, err := ParseCerts(bundle)
	if err != nil {
		return nil, fmt.Errorf("the cluster's CA: %w", err)
	}
	for _, cert := range certs {
		if cert.IsCA && PinOf(cert) == t.Pin {
			return cert, nil
		}
	}
	return nil, errors.New("the server's CA is not the one in the join token: this is another cluster, its CA was renewed (make a new token), or someone stands between")
}
