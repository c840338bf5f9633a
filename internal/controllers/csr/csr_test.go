package csr

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/inprocess"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resources"
	"skiff.dev/skiff/internal/store/mem"
)

// world is an API in which system:bootstrap:* may have client certificates for
// nodes, and nodes their own.
type world struct {
	t      *testing.T
	engine *verbs.Engine
	policy authz.Authorizer
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, policy: authz.Func(func(_ context.Context, u *request.User, a *request.Info) (authz.Decision, string, error) {
		switch a.Subresource {
		case "nodeclient":
			if !u.InGroup("system:bootstrappers") {
				return authz.NoOpinion, "", nil
			}
		case "selfnodeclient":
			if !u.InGroup(nodeGroup) {
				return authz.NoOpinion, "", nil
			}
		}
		return authz.Allow, "", nil
	})}
	store := mem.New()
	var err error
	w.engine, err = verbs.Open(t.Context(), verbs.Config{
		Store: store, Resources: resources.All(resources.Needs{Authorizer: w.policy}), VerifyImmutability: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.engine.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) as(user string, groups ...string) *client.Client {
	return client.New(inprocess.New(w.engine, w.policy, &request.User{Name: user, Groups: groups}, "test"))
}

// ask creates a request for the identity.
func (w *world) ask(c *client.Client, id pki.Identity, signer string, names []string, ips []net.IP) *signingRequest {
	w.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := pki.NewSigningRequest(id, key, names, ips)
	if err != nil {
		w.t.Fatal(err)
	}
	usage := certificatesv1.UsageClientAuth
	if signer == certificatesv1.KubeletServingSignerName {
		usage = certificatesv1.UsageServerAuth
	}
	lifetime := int32(3600)
	r, err := client.For[*signingRequest](c).Create(w.t.Context(), &signingRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: data, SignerName: signer, ExpirationSeconds: &lifetime,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) now(r *signingRequest) *signingRequest {
	w.t.Helper()
	synctest.Wait()
	r, err := client.For[*signingRequest](w.as("admin")).Get(w.t.Context(), "", r.Name)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

const servingMessage = "Auto approving kubelet serving certificate whose names and addresses are those of its Node."

func TestApproval(t *testing.T) {
	const (
		kubelet = certificatesv1.KubeAPIServerClientKubeletSignerName
		serving = certificatesv1.KubeletServingSignerName
		message = "Auto approving kubelet client certificate after SubjectAccessReview."
	)
	ip := []net.IP{net.IPv4(10, 0, 0, 1)}
	tests := map[string]struct {
		user   string
		groups []string
		id     pki.Identity
		signer string
		names  []string
		ips    []net.IP
		want   string
	}{
		"bootstrap":               {"system:bootstrap:abcdef", []string{"system:bootstrappers"}, pki.Node("n1"), kubelet, nil, nil, message},
		"renewal":                 {"system:node:n1", []string{nodeGroup}, pki.Node("n1"), kubelet, nil, nil, "Auto approving self kubelet client certificate after SubjectAccessReview."},
		"another node's":          {"system:node:n2", []string{nodeGroup}, pki.Node("n1"), kubelet, nil, nil, ""},
		"a user":                  {"alice", []string{"team"}, pki.Node("n1"), kubelet, nil, nil, ""},
		"not a node's":            {"system:bootstrap:abcdef", []string{"system:bootstrappers"}, pki.Admin(), kubelet, nil, nil, ""},
		"with a name":             {"system:bootstrap:abcdef", []string{"system:bootstrappers"}, pki.Node("n1"), kubelet, []string{"n1"}, nil, ""},
		"serving":                 {"system:node:n1", []string{nodeGroup}, pki.Node("n1"), serving, []string{"n1"}, ip, servingMessage},
		"serving for another":     {"system:node:n2", []string{nodeGroup}, pki.Node("n1"), serving, []string{"n1"}, ip, ""},
		"serving by a bootstrap":  {"system:bootstrap:abcdef", []string{"system:bootstrappers"}, pki.Node("n1"), serving, []string{"n1"}, ip, ""},
		"serving a strange name":  {"system:node:n1", []string{nodeGroup}, pki.Node("n1"), serving, []string{"n1", "kubernetes"}, ip, ""},
		"serving a strange place": {"system:node:n1", []string{nodeGroup}, pki.Node("n1"), serving, nil, []net.IP{net.IPv4(10, 0, 0, 2)}, ""},
		"serving without a group": {"system:node:n1", nil, pki.Node("n1"), serving, nil, ip, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- NewApprover(w.as("approver")).Run(ctx) }()
				defer func() {
					cancel()
					if err := <-done; err != nil {
						t.Error(err)
					}
				}()
				w.node("n1")
				r := w.now(w.ask(w.as(test.user, test.groups...), test.id, test.signer, test.names, test.ips))
				got := ""
				if c := condition(r, certificatesv1.CertificateApproved); c != nil {
					got = c.Message
				}
				if d := cmp.Diff(test.want, got); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

func (w *world) node(name string) {
	w.t.Helper()
	n, err := client.For[*corev1.Node](w.as("admin")).Create(w.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil {
		w.t.Fatal(err)
	}
	n = meta.Copy(n)
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeHostName, Address: name}}
	if _, err := client.For[*corev1.Node](w.as("admin")).UpdateStatus(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
}

// TestServingWaitsForItsNode also follows a request through its whole life.
func TestServingWaitsForItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ca, err := pki.NewAuthority("kubernetes", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		c := w.as("controllers")
		go func() { done <- NewApprover(c).Run(ctx) }()
		go func() { done <- NewSigner(c, ca, 24*time.Hour).Run(ctx) }()
		go func() { done <- NewCleaner(c).Run(ctx) }()
		defer func() {
			cancel()
			for range 3 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}()
		r := w.ask(w.as("system:node:n1", nodeGroup), pki.Node("n1"), certificatesv1.KubeletServingSignerName, []string{"n1"}, []net.IP{net.IPv4(10, 0, 0, 1)})
		if decided(w.now(r)) {
			t.Fatal("approved before there was a Node")
		}
		w.node("n1")
		r = w.now(r)
		certs, err := pki.ParseCerts(r.Status.Certificate)
		if err != nil {
			t.Fatalf("%v; conditions %v", err, r.Status.Conditions)
		}
		if got := certs[0].NotAfter.Sub(time.Now()).Round(time.Minute); got != time.Hour {
			t.Errorf("valid for %v, asked for an hour", got)
		}
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if _, err := client.For[*signingRequest](c).Get(ctx, "", r.Name); !apierrors.IsNotFound(err) {
			t.Errorf("an hour after its approval: %v", err)
		}
	})
}

func TestSignerRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ca, err := pki.NewAuthority("kubernetes", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- NewSigner(w.as("signer"), ca, 24*time.Hour).Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		admin := w.as("admin")
		decide := func(r *signingRequest, typ certificatesv1.RequestConditionType) *signingRequest {
			r = meta.Copy(r)
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: typ, Status: corev1.ConditionTrue})
			if err := approve(ctx, admin, r); err != nil {
				t.Fatal(err)
			}
			return w.now(r)
		}
		masters := decide(w.ask(admin, pki.Admin(), certificatesv1.KubeAPIServerClientKubeletSignerName, nil, nil), certificatesv1.CertificateApproved)
		failed := condition(masters, certificatesv1.CertificateFailed)
		if failed == nil || failed.Reason != "SignerValidationFailure" || failed.Message != "subject organization is not system:nodes" || masters.Status.Certificate != nil {
			t.Errorf("status %+v", masters.Status)
		}
		if r := decide(w.ask(admin, pki.Node("n1"), certificatesv1.KubeAPIServerClientKubeletSignerName, nil, nil), certificatesv1.CertificateDenied); r.Status.Certificate != nil {
			t.Error("a denied request was signed")
		}
		if r := decide(w.ask(admin, pki.Node("n1"), "example.com/other", nil, nil), certificatesv1.CertificateApproved); r.Status.Certificate != nil || len(r.Status.Conditions) != 1 {
			t.Errorf("another's request: %+v", r.Status)
		}
		if r := decide(w.ask(admin, pki.Identity{User: "bob"}, certificatesv1.KubeAPIServerClientSignerName, nil, nil), certificatesv1.CertificateApproved); r.Status.Certificate == nil {
			t.Errorf("a user's approved request: %+v", r.Status)
		}
	})
}

func TestExpiry(t *testing.T) {
	at := func(minutes int) metav1.Time {
		return metav1.NewTime(time.Unix(0, 0).Add(time.Duration(minutes) * time.Minute))
	}
	with := func(typ certificatesv1.RequestConditionType, minute int) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: typ, LastUpdateTime: at(minute)}
	}
	conditions := func(all ...certificatesv1.CertificateSigningRequestCondition) *signingRequest {
		return &signingRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(0)}, Status: certificatesv1.CertificateSigningRequestStatus{Conditions: all}}
	}
	issued := conditions(with(certificatesv1.CertificateApproved, 5))
	issued.Status.Certificate = []byte("another signer's")
	for name, test := range map[string]struct {
		r    *signingRequest
		want time.Time
	}{
		"pending":  {conditions(), at(24 * 60).Time},
		"denied":   {conditions(with(certificatesv1.CertificateDenied, 7)), at(67).Time},
		"approved": {conditions(with(certificatesv1.CertificateApproved, 7)), time.Time{}},
		"failed":   {conditions(with(certificatesv1.CertificateApproved, 7), with(certificatesv1.CertificateFailed, 9)), at(69).Time},
		"issued":   {issued, at(65).Time},
	} {
		if got := expiry(test.r); !got.Equal(test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
