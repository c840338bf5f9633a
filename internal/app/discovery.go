package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/internal/pki"
)

const (
	discoveryTimeout = 15 * time.Second
	maxDiscovery     = 1 << 20
	// maxSkew is how far two clocks may be apart before certificates suffer.
	maxSkew = 4 * time.Minute
)

// serverURL checks and completes what was given as --server.
func serverURL(text string) (string, error) {
	if text == "" {
		return "", errors.New("--server: say where the cluster is, such as https://10.0.0.1:6443")
	}
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("--server: %q is not a URL such as https://10.0.0.1:6443", text)
	}
	if u.Scheme != "https" {
		return "", fmt.Errorf("--server: %q is not https", text)
	}
	if u.Port() == "" {
		u.Host += fmt.Sprintf(":%d", Default().SecurePort)
	}
	return u.Scheme + "://" + u.Host, nil
}

// discoverCA gets the cluster's CA from the server, over a connection that
// nothing vouches for yet, and believes it only if the token's pin is of it.
// The token itself is not sent. Servers show their CA in the TLS handshake;
// those that do not have it in the ConfigMap cluster-info, as kubeadm's.
func discoverCA(ctx context.Context, server string, token pki.JoinToken) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, discoveryTimeout)
	defer cancel()
	hc := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}, //nolint:gosec // the pin verifies
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer hc.CloseIdleConnections()
	resp, err := get(ctx, hc, server+"/version")
	if err != nil {
		return nil, fmt.Errorf("the server at %s cannot be reached (is it running, is the address right, does a firewall stand between?): %w", server, err)
	}
	if err := checkClock(resp.date, time.Now()); err != nil {
		return nil, err
	}
	ca, err := token.Trust(resp.chain)
	if err == nil {
		return ca, nil
	}
	info, infoErr := get(ctx, hc, server+"/api/v1/namespaces/kube-public/configmaps/cluster-info")
	if infoErr != nil || info.status != http.StatusOK {
		return nil, err
	}
	bundle, infoErr := clusterInfoCA(info.body)
	if infoErr != nil {
		return nil, errors.Join(err, infoErr)
	}
	return token.Trust(bundle)
}

// answer is what discovery reads of a response.
type answer struct {
	status int
	body   []byte
	chain  []byte // PEM
	date   time.Time
}

func get(ctx context.Context, hc *http.Client, url string) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxDiscovery)); err != nil {
		return nil, err
	}
	a.date, _ = http.ParseTime(resp.Header.Get("Date")) // zero if there is none
	var chain bytes.Buffer
	for _, cert := range resp.TLS.PeerCertificates {
		chain.Write(pki.EncodeCert(cert))
	}
	a.chain = chain.Bytes()
	return a, nil
}

// checkClock tells of a clock that would make certificates look expired or not
// yet valid.
func checkClock(server, here time.Time) error {
	if server.IsZero() {
		return nil
	}
	if skew := here.Sub(server).Round(time.Second); skew > maxSkew || skew < -maxSkew {
		return fmt.Errorf("the clocks of this machine (%s) and the server (%s) are %v apart: set this machine's clock (chrony or systemd-timesyncd keep it right)",
			here.UTC().Format(time.RFC3339), server.UTC().Format(time.RFC3339), skew.Abs())
	}
	return nil
}

func clusterInfoCA(body []byte) ([]byte, error) {
	var info corev1.ConfigMap
	if err := json.Unmarshal(body, &info); err != nil {
		return nil, fmt.Errorf("reading cluster-info: %w", err)
	}
	config, err := clientcmd.Load([]byte(info.Data["kubeconfig"]))
	if err != nil {
		return nil, fmt.Errorf("reading cluster-info: %w", err)
	}
	for _, cluster := range config.Clusters {
		return cluster.CertificateAuthorityData, nil
	}
	return nil, errors.New("cluster-info names no cluster")
}

// explainJoin says what a person can do about a failure to join.
func explainJoin(err error, server string) error {
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &host):
		return fmt.Errorf("the server's certificate is not for the address in %s; use one of its addresses or start it with --tls-san: %w", server, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the server's certificate is not valid at this time; check the clocks of both machines: %w", err)
	case errors.As(err, &unknown):
		return fmt.Errorf("the server at %s is not of the cluster that the token is for: %w", server, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the cluster does not know the token: it is wrong, has expired or was deleted; make a new one on the server with skiff token create: %w", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the token may not be used to join; make one with skiff token create on the server: %w", err)
	}
	return err
}
