package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

const kubeletConfigKind = "KubeletConfiguration"

// configure takes what the files and the flags say together: the files of
// --config-dir win over --config, and the flags over both.
func (o *kubeletOptions) configure(f *pflag.FlagSet) error {
	given := map[string]any{"apiVersion": kubeletv1beta1.SchemeGroupVersion.String(), "kind": kubeletConfigKind}
	files, err := o.configFiles()
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--config: %w", err)
		}
		said, err := readKubeletConfig(data)
		if err != nil {
			return fmt.Errorf("--config %s: %w", file, err)
		}
		given = patched(given, said)
	}
	return o.apply(given, setByFlags(f, o.fields, given))
}

// configFiles are --config and, in the order of their names, the files of
// --config-dir that end in .conf (KEP-3983).
func (o *kubeletOptions) configFiles() (files []string, err error) {
	if o.file != "" {
		files = append(files, o.file)
	}
	if o.dropIns == "" {
		return files, nil
	}
	entries, err := os.ReadDir(o.dropIns)
	if err != nil {
		return nil, fmt.Errorf("--config-dir: %w", err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".conf" && !e.IsDir() {
			files = append(files, filepath.Join(o.dropIns, e.Name()))
		}
	}
	return files, nil
}

// readKubeletConfig reads one file as what it gives; every field must be one.
func readKubeletConfig(data []byte) (map[string]any, error) {
	if _, err := decodeKubeletConfig(data); err != nil {
		return nil, err
	}
	given := map[string]any{}
	return given, yaml.Unmarshal(data, &given)
}

func decodeKubeletConfig(data []byte) (*kubeletv1beta1.KubeletConfiguration, error) {
	var c kubeletv1beta1.KubeletConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, err
	}
	if want := kubeletv1beta1.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != kubeletConfigKind {
		return nil, fmt.Errorf("got %s %s, want %s %s", c.APIVersion, c.Kind, want, kubeletConfigKind)
	}
	return &c, nil
}

// apply carries out what is given; by says which fields a flag has set.
func (o *kubeletOptions) apply(given map[string]any, by map[string]string) error {
	text, err := json.Marshal(given)
	if err != nil {
		return fmt.Errorf("kubelet configuration: %w", err)
	}
	c, err := decodeKubeletConfig(text)
	if err != nil {
		return fmt.Errorf("kubelet configuration: %w", err)
	}
	t := &kubeletTerms{c: c, given: given, settings: &o.settings}
	t.faults = checkFields(kubeletFields, given, by)
	t.access()
	t.pods()
	t.limits()
	t.images()
	t.eviction()
	t.host()
	o.take(c, t)
	return errors.Join(t.faults...)
}

// take is what of the configuration is not the node's settings.
func (o *kubeletOptions) take(c *kubeletv1beta1.KubeletConfiguration, t *kubeletTerms) {
	text := func(to *string, value string) {
		if value != "" {
			*to = value
		}
	}
	text(&o.staticPods, c.StaticPodPath)
	text(&o.certFile, c.TLSCertFile)
	text(&o.keyFile, c.TLSPrivateKeyFile)
	text(&o.clientCA, c.Authentication.X509.ClientCAFile)
	text(&o.healthAddress, c.HealthzBindAddress)
	text(&o.cfg.ClusterDomain, c.ClusterDomain)
	text(&o.cfg.RuntimeEndpoint, c.ContainerRuntimeEndpoint)
	if c.Port != 0 {
		o.cfg.KubeletPort = int(c.Port)
	}
	if c.HealthzPort != nil {
		o.healthPort = int(*c.HealthzPort)
	}
	o.cfg.MaxPods = t.maxPods(o.cfg.MaxPods)
	if len(c.ClusterDNS) > 0 {
		o.cfg.ClusterDNS = c.ClusterDNS[0]
	}
	o.serverTLS, o.oomScore = c.ServerTLSBootstrap, c.OOMScoreAdj
	if rotate, said := t.given["rotateCertificates"]; said {
		o.fixed = rotate == false
	}
	if len(c.RegisterWithTaints) > 0 && len(o.cfg.NodeTaints) == 0 {
		for _, taint := range c.RegisterWithTaints {
			o.cfg.NodeTaints = append(o.cfg.NodeTaints, taintText(taint.Key, taint.Value, string(taint.Effect)))
		}
	}
}

// is reports whether the field of a switch says v.
func is(p *bool, v bool) bool { return p != nil && *p == v }

// bad notes a fault if there is one.
func (t *kubeletTerms) bad(fault bool, format string, args ...any) {
	if fault {
		t.faults = append(t.faults, fmt.Errorf(format, args...))
	}
}

// oneOf notes a fault unless the value is empty or one of the others.
func (t *kubeletTerms) oneOf(field, value string, others ...string) bool {
	ok := value == "" || slices.Contains(others, value)
	t.bad(!ok, "%s: %q is not one of %q", field, value, others)
	return ok
}
