package pki

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig is what a client needs to reach the cluster as somebody.
type Kubeconfig struct {
	// Server is the API server's URL.
	Server string
	// CA verifies the server, PEM.
	CA []byte
	// Cluster and User are the names used in the file.
	Cluster, User string
	// Either CertPEM and KeyPEM, or CertFile (which may hold both) and
	// KeyFile, which clients read again when they change, or Token.
	CertPEM, KeyPEM   []byte
	CertFile, KeyFile string
	Token             string
}

// Config returns it in client-go's form.
func (k Kubeconfig) Config() *clientcmdapi.Config {
	conf := clientcmdapi.NewConfig()
	conf.Clusters[k.Cluster] = &clientcmdapi.Cluster{Server: k.Server, CertificateAuthorityData: k.CA}
	conf.AuthInfos[k.User] = &clientcmdapi.AuthInfo{
		ClientCertificateData: k.CertPEM, ClientKeyData: k.KeyPEM,
		ClientCertificate: k.CertFile, ClientKey: k.KeyFile,
		Token: k.Token,
	}
	context := k.User + "@" + k.Cluster
	conf.Contexts[context] = &clientcmdapi.Context{Cluster: k.Cluster, AuthInfo: k.User}
	conf.CurrentContext = context
	return conf
}

// WriteKubeconfig writes the file, mode 0600, unless it says the same already.
func WriteKubeconfig(name string, k Kubeconfig) error {
	data, err := clientcmd.Write(*k.Config())
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	old, err := os.ReadFile(name)
	if err == nil && bytes.Equal(old, data) {
		if err := os.Chmod(name, 0o600); err != nil {
			return fmt.Errorf("closing %s to others: %w", name, err)
		}
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return WriteFile(name, data, 0o600)
}
