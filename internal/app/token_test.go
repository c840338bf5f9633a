package app

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/pki"
)

func TestTokenSecret(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	create := tokenCreate{ttl: time.Hour, usages: []string{"authentication", "signing"}, description: "rack 3", groups: []string{"system:bootstrappers:a", "system:bootstrappers:b"}}
	got := create.secret(pki.JoinToken{ID: "abcdef", Secret: "0123456789abcdef"}, now)
	want := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"},
		Type:       "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": "2026-01-02T04:04:05Z", "description": "rack 3",
			"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
			"auth-extra-groups": "system:bootstrappers:a,system:bootstrappers:b",
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	create.ttl = 0
	if _, ends := create.secret(pki.JoinToken{}, now).StringData["expiration"]; ends {
		t.Error("a token without an end has one")
	}
}

func TestTokenFlags(t *testing.T) {
	good := tokenCreate{usages: []string{"authentication"}}
	for want, change := range map[string]func(*tokenCreate){
		"":              func(*tokenCreate) {},
		"--ttl":         func(c *tokenCreate) { c.ttl = -1 },
		"--usages: say": func(c *tokenCreate) { c.usages = nil },
		`"x" is`:        func(c *tokenCreate) { c.usages = []string{"x"} },
		"--groups":      func(c *tokenCreate) { c.groups = []string{"system:masters"} },
		"--print-join":  func(c *tokenCreate) { c.usages, c.joinCommand = []string{"signing"}, true },
	} {
		c := good
		change(&c)
		if err := c.validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestTokens(t *testing.T) {
	c := startCluster(t, time.Hour)
	line := c.token(t, func(tc *tokenCreate) { tc.joinCommand, tc.description = true, "first" })
	fields := strings.Fields(line)
	if len(fields) != 6 || !slices.Equal(fields[:4], []string{"skiff", "agent", "--server", "https://10.0.0.1:6443"}) {
		t.Fatalf("join command %q", line)
	}
	token, err := pki.ParseJoinToken(fields[5])
	if err != nil || token.Pin != pki.PinOf(c.ca.CA.Cert) {
		t.Errorf("token %v, %v", token, err)
	}
	c.token(t, func(tc *tokenCreate) { tc.ttl = 0 })
	var out strings.Builder
	if err := listTokens(t.Context(), &out, c.admin, time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{token.ID, "<expired>", "first", "<forever>", "<never>"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), token.Secret) {
		t.Error("the list tells a secret")
	}
	bindings, err := client.For[*rbacv1.ClusterRoleBinding](c.admin).List(t.Context(), "", metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range joinPolicy() {
		if !slices.ContainsFunc(bindings, func(b *rbacv1.ClusterRoleBinding) bool { return b.Name == want.Name }) {
			t.Errorf("no binding %s", want.Name)
		}
	}
}

func TestVersionText(t *testing.T) {
	text, err := versionText("json")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(text), &got); err != nil || got["kubernetes"] != "v1.37.1" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := versionText("xml"); err == nil {
		t.Error("xml was accepted")
	}
}
