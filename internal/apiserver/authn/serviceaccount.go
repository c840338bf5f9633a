package authn

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

const (
	// leeway is by how much clocks may differ, and for how long after its
	// deletion was asked for a pod may still use its token to say farewell.
	leeway = time.Minute

	signatureTTL = time.Minute

	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNodeName = "authentication.kubernetes.io/node-name"
	extraNodeUID  = "authentication.kubernetes.io/node-uid"

	invalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
)

var (
	errExpired     = errors.New("service account token has expired")
	errNotYet      = errors.New("service account token is not valid yet")
	errInvalidated = errors.New("service account token has been invalidated")
)

// ServiceAccounts verifies the tokens of service accounts: signature, times,
// audience, and that all the token is bound to is still there, in the same
// incarnation. Signatures that were good are remembered for a minute; the rest
// is looked at on every request, so that deleting a pod ends its token at once.
type ServiceAccounts struct {
	issuer  *Issuer
	objects Reader
	seen    *cache[[sha256.Size]byte, *verified]
}

// verified is a token whose signature was good, and the user it stands for.
type verified struct {
	claims *claims
	user   *request.User
}

// NewServiceAccounts verifies tokens by the keys of issuer.
func NewServiceAccounts(issuer *Issuer, objects Reader) *ServiceAccounts {
	return &ServiceAccounts{issuer: issuer, objects: objects, seen: newCache[[sha256.Size]byte, *verified](4096)}
}

// AuthenticateToken has no opinion about tokens of other issuers.
func (s *ServiceAccounts) AuthenticateToken(ctx context.Context, token string, audiences []string) (*request.User, []string, bool, error) {
	now := time.Now()
	id := sha256.Sum256([]byte(token))
	v, known := s.seen.get(id, now)
	if !known {
		c, ok, err := s.verify(token)
		if !ok || err != nil {
			return nil, nil, false, err
		}
		v = &verified{claims: c, user: c.user()}
	}
	if err := v.claims.checkTimes(now); err != nil {
		return nil, nil, false, err
	}
	meantFor, err := s.checkAudience(v.claims, audiences)
	if err != nil {
		return nil, nil, false, err
	}
	if err := s.checkObjects(ctx, v.claims, token, now); err != nil {
		return nil, nil, false, err
	}
	if !known {
		s.seen.put(id, v, now.Add(signatureTTL))
	}
	return v.user, meantFor, true, nil
}

// verify checks the signature and the form of a token of ours.
func (s *ServiceAccounts) verify(token string) (*claims, bool, error) {
	e, err := open(token)
	if err != nil {
		return nil, false, nil // not a JWT: someone else's token
	}
	var peek struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(e.payload, &peek); err != nil {
		return nil, false, nil
	}
	if peek.Issuer != legacyIssuer && !slices.Contains(s.issuer.config.Issuers, peek.Issuer) {
		return nil, false, nil
	}
	if !e.verifiedBy(s.issuer.keys) {
		return nil, false, errors.New("invalid signature")
	}
	c := &claims{}
	if err := json.Unmarshal(e.payload, c); err != nil {
		return nil, false, errMalformed
	}
	return c, true, c.checkForm()
}

// account returns what the token says about its service account.
func (c *claims) account() (key meta.Key, uid types.UID) {
	if b := c.Bound; b != nil {
		return meta.Key{Namespace: b.Namespace, Name: b.ServiceAccount.Name}, b.ServiceAccount.UID
	}
	return meta.Key{Namespace: c.Namespace, Name: c.ServiceAccountName}, types.UID(c.ServiceAccountUID)
}

// checkForm checks that the token is of one of the two kinds and names all it
// must.
func (c *claims) checkForm() error {
	if (c.Issuer == legacyIssuer) != (c.Bound == nil) {
		return errMalformed
	}
	sa, uid := c.account()
	if sa.Namespace == "" || sa.Name == "" || uid == "" || c.Subject != Username(sa.Namespace, sa.Name) {
		return errMalformed
	}
	if c.Bound == nil {
		if c.SecretName == "" {
			return errMalformed
		}
		return nil
	}
	if c.Expiry == nil {
		return errMalformed
	}
	for _, r := range []*ref{c.Bound.Pod, c.Bound.Secret} {
		if r != nil && (r.Name == "" || r.UID == "") {
			return errMalformed
		}
	}
	return nil
}

func (c *claims) checkTimes(now time.Time) error {
	at := func(d *numericDate) time.Time { return time.Unix(int64(*d), 0) }
	if c.Expiry != nil && now.After(at(c.Expiry).Add(leeway)) {
		return errExpired
	}
	for _, d := range []*numericDate{c.NotBefore, c.IssuedAt} {
		if d != nil && now.Add(leeway).Before(at(d)) {
			return errNotYet
		}
	}
	return nil
}

// checkAudience returns those of asked (nil: the API server) that the token is
// meant for. Legacy tokens name none and are meant for the API server.
func (s *ServiceAccounts) checkAudience(c *claims, asked []string) ([]string, error) {
	has := []string(c.Audience)
	if c.Bound == nil && len(has) == 0 {
		has = s.issuer.Audiences()
	}
	if len(asked) == 0 {
		asked = s.issuer.Audiences()
	}
	meantFor := intersect(has, asked)
	if len(meantFor) == 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", has, asked)
	}
	return meantFor, nil
}

// checkObjects checks that the service account and all that the token is bound
// to are there.
func (s *ServiceAccounts) checkObjects(ctx context.Context, c *claims, token string, now time.Time) error {
	key, uid := c.account()
	if c.Bound == nil {
		if err := s.checkLegacySecret(ctx, c, token); err != nil {
			return err
		}
	}
	if err := s.checkObject(ctx, serviceAccounts, key, uid, now); err != nil {
		return err
	}
	b := c.Bound
	switch {
	case b == nil:
		return nil
	case b.Secret != nil:
		return s.checkObject(ctx, secrets, meta.Key{Namespace: b.Namespace, Name: b.Secret.Name}, b.Secret.UID, now)
	case b.Pod != nil:
		// The node of a pod's token is information only: the pod is what counts.
		return s.checkObject(ctx, pods, meta.Key{Namespace: b.Namespace, Name: b.Pod.Name}, b.Pod.UID, now)
	case b.Node != nil:
		return s.checkObject(ctx, nodes, meta.Key{Name: b.Node.Name}, b.Node.UID, now)
	}
	return nil
}

func (s *ServiceAccounts) checkObject(ctx context.Context, gr schema.GroupResource, key meta.Key, uid types.UID, now time.Time) error {
	obj, err := s.objects.Get(ctx, gr, key)
	if apierrors.IsNotFound(err) {
		return errInvalidated
	}
	if err != nil {
		return fmt.Errorf("checking what the token is bound to: %w", err)
	}
	if obj.GetUID() != uid || deletedBefore(obj, now.Add(-leeway)) {
		return errInvalidated
	}
	return nil
}

func deletedBefore(o metav1.Object, t time.Time) bool {
	at := o.GetDeletionTimestamp()
	return at != nil && at.Time.Before(t)
}

// checkLegacySecret checks that the token is still in its secret.
func (s *ServiceAccounts) checkLegacySecret(ctx context.Context, c *claims, token string) error {
	secret, err := get[*corev1.Secret](ctx, s.objects, secrets, meta.Key{Namespace: c.Namespace, Name: c.SecretName})
	if apierrors.IsNotFound(err) {
		return errInvalidated
	}
	if err != nil {
		return fmt.Errorf("checking the secret of the token: %w", err)
	}
	same := subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 1
	if !same || secret.DeletionTimestamp != nil || secret.Labels[invalidSinceLabel] != "" {
		return errInvalidated
	}
	return nil
}

func (c *claims) user() *request.User {
	key, uid := c.account()
	u := &request.User{
		Name: c.Subject, UID: string(uid),
		Groups: []string{request.GroupServiceAccounts, request.GroupServiceAccounts + ":" + key.Namespace, request.GroupAuthenticated},
	}
	if c.Bound == nil {
		return u
	}
	u.Extra = map[string][]string{}
	set := func(key, value string) {
		if value != "" {
			u.Extra[key] = []string{value}
		}
	}
	if r := c.Bound.Pod; r != nil {
		set(extraPodName, r.Name)
		set(extraPodUID, string(r.UID))
	}
	if r := c.Bound.Node; r != nil {
		set(extraNodeName, r.Name)
		set(extraNodeUID, string(r.UID))
	}
	if c.ID != "" {
		set(credentialID, "JTI="+c.ID)
	}
	return u
}
