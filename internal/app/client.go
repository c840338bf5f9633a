package app

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
)

// admin says as whom, and on which cluster, a command of an operator works.
type admin struct {
	dataDir, kubeconfig string
}

func (a *admin) flags(f *pflag.FlagSet) {
	f.StringVar(&a.dataDir, "data-dir", Default().DataDir, "data directory of the cluster's server, whose kubeconfig is used")
	f.StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig to use instead")
}

func (a *admin) config() (*rest.Config, error) {
	path := a.kubeconfig
	if path == "" {
		path = filepath.Join(a.dataDir, "kubeconfig")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig (is this a server's machine? see --data-dir and --kubeconfig): %w", err)
	}
	if err := rest.LoadTLSFiles(cfg); err != nil {
		return nil, fmt.Errorf("reading the kubeconfig %s: %w", path, err)
	}
	return cfg, nil
}

// open returns a client; closing it ends its watches.
func (a *admin) open(agent string) (c *client.Client, cfg *rest.Config, closer func(), err error) {
	if cfg, err = a.config(); err != nil {
		return nil, nil, nil, err
	}
	t, err := https.New(cfg, agent)
	if err != nil {
		return nil, nil, nil, err
	}
	return client.New(t), cfg, t.Close, nil
}
