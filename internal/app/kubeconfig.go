package app

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff.dev/skiff/internal/pki"
)

// writeAdminKubeconfig writes <data-dir>/kubeconfig, good for everything.
func (s *server) writeAdminKubeconfig() error {
	pair, err := s.cluster.CA.Issue(pki.Request{Identity: pki.Admin(), Usage: pki.Client})
	if err != nil {
		return err
	}
	config, err := kubeconfig(s.localURL(), pki.EncodeCert(s.cluster.CA.Cert), pki.Admin().User, pair)
	if err != nil {
		return err
	}
	path := filepath.Join(s.cfg.DataDir, "kubeconfig")
	if err := pki.WriteFile(path, config, 0o600); err != nil {
		return fmt.Errorf("writing the administrator's kubeconfig: %w", err)
	}
	return nil
}

// localURL is where clients on this host reach the API server.
func (s *server) localURL() string {
	host := s.cfg.BindAddress
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(s.cfg.SecurePort))
}

func kubeconfig(url string, ca []byte, user string, pair *pki.Pair) ([]byte, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters["skiff"] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: ca}
	c.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.CertPEM, ClientKeyData: pair.KeyPEM}
	c.Contexts["skiff"] = &clientcmdapi.Context{Cluster: "skiff", AuthInfo: user}
	c.CurrentContext = "skiff"
	return clientcmd.Write(*c)
}
