package bootstraptoken

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
)

// What new nodes read, before they trust anybody, to find the cluster: the
// ConfigMap cluster-info of kube-public, a kubeconfig without credentials in it,
// and beside it the signature by each token that may sign. Who holds a token
// can tell by it that the kubeconfig comes from who issued the token.
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#configmap-signing
const (
	ClusterInfo     = "cluster-info"
	KeyKubeconfig   = "kubeconfig"
	SignaturePrefix = "jws-kubeconfig-" // and the token's ID
)

// The forms of a token's two halves.
var (
	idForm     = regexp.MustCompile(`\A[a-z0-9]{6}\z`)
	secretForm = regexp.MustCompile(`\A[a-z0-9]{16}\z`)
)

type signer struct {
	client  *client.Client
	infos   client.Cache[*corev1.ConfigMap]
	secrets client.Cache[*corev1.Secret]
}

// NewSigner returns the controller that keeps the signatures of cluster-info.
func NewSigner(c *client.Client) *controller.Controller {
	s := &signer{client: c}
	info := meta.Key{Namespace: metav1.NamespacePublic, Name: ClusterInfo}
	return controller.Keyed(c, "bootstrap-signer", s.reconcile,
		controller.MapsWithin(&s.infos, info.Namespace, func(ch client.Change[*corev1.ConfigMap]) []meta.Key {
			if key := meta.KeyOf(ch.Object()); key == info && !ch.Deleted {
				return []meta.Key{info}
			}
			return nil
		}),
		controller.MapsWithin(&s.secrets, metav1.NamespaceSystem, func(ch client.Change[*corev1.Secret]) []meta.Key {
			if o := ch.Object(); o.Namespace == metav1.NamespaceSystem && o.Type == Type {
				return []meta.Key{info}
			}
			return nil
		}),
		controller.Workers(1),
		controller.Writes("", "configmaps", "update"),
	)
}

func (s *signer) reconcile(ctx context.Context, key meta.Key) (controller.Result, error) {
	info, ok := s.infos.Get(key.Namespace, key.Name)
	if !ok || info.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	now := time.Now()
	var tokens []*corev1.Secret
	var next time.Time
	for secret := range s.secrets.All(metav1.NamespaceSystem) {
		if !signs(secret, now) {
			continue
		}
		tokens = append(tokens, secret)
		if end, ends := Expiration(secret); ends && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	var again controller.Result
	if !next.IsZero() {
		again.After = next.Sub(now)
	}
	want, err := signed(info.Data, tokens)
	if err != nil || maps.Equal(want, info.Data) {
		return again, err
	}
	info = meta.Copy(info)
	info.Data = want
	_, err = client.For[*corev1.ConfigMap](s.client).Update(ctx, info)
	return again, err
}

// signs reports whether a Secret is a token that may sign, and has not ended.
func signs(s *corev1.Secret, now time.Time) bool {
	id := string(s.Data[KeyID])
	if s.Namespace != metav1.NamespaceSystem || s.Type != Type || s.DeletionTimestamp != nil || s.Name != NamePrefix+id {
		return false
	}
	if end, ends := Expiration(s); ends && !now.Before(end) {
		return false
	}
	return string(s.Data[KeyUsagePrefix+"signing"]) == "true" && idForm.MatchString(id) && secretForm.Match(s.Data[KeySecret])
}

// signed returns data with the signatures of the tokens and of nobody else.
// What is not there cannot be signed.
func signed(data map[string]string, tokens []*corev1.Secret) (map[string]string, error) {
	out := maps.Clone(data)
	maps.DeleteFunc(out, func(key, _ string) bool { return strings.HasPrefix(key, SignaturePrefix) })
	content, ok := data[KeyKubeconfig]
	if !ok {
		return out, nil
	}
	slices.SortFunc(tokens, func(a, b *corev1.Secret) int { return cmp.Compare(a.Name, b.Name) })
	for _, t := range tokens {
		id := string(t.Data[KeyID])
		signature, err := detached(content, id, string(t.Data[KeySecret]))
		if err != nil {
			return nil, err
		}
		out[SignaturePrefix+id] = signature
	}
	return out, nil
}

// detached signs content by the whole token with HMAC-SHA256 and returns the
// signature in the compact form of RFC 7515 without the content (its appendix F).
func detached(content, id, secret string) (string, error) {
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}{"HS256", id})
	if err != nil {
		return "", fmt.Errorf("signing %s: %w", ClusterInfo, err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, []byte(id+"."+secret))
	mac.Write([]byte(encode(header) + "." + encode([]byte(content))))
	return encode(header) + ".." + encode(mac.Sum(nil)), nil
}
