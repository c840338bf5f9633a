// Package config reads a KubeSchedulerConfiguration
// (kubescheduler.config.k8s.io/v1): defaults, strict decoding and validation.
// It reads bytes and writes nothing.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	baseconfig "k8s.io/component-base/config/v1alpha1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"
)

// Default returns the configuration that holds where none is given.
func Default() *configv1.KubeSchedulerConfiguration {
	c := &configv1.KubeSchedulerConfiguration{}
	setDefaults(c)
	return c
}

// Parse reads a configuration file, YAML or JSON, fills in what it leaves out
// and validates it. Unknown and repeated fields are errors.
func Parse(data []byte) (*configv1.KubeSchedulerConfiguration, error) {
	c := &configv1.KubeSchedulerConfiguration{}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, fmt.Errorf("reading scheduler configuration: %w", err)
	}
	if want := configv1.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeSchedulerConfiguration" {
		return nil, fmt.Errorf("reading scheduler configuration: got %s %s, want %s KubeSchedulerConfiguration", c.APIVersion, c.Kind, want)
	}
	setDefaults(c)
	if err := Validate(c); err != nil {
		return nil, fmt.Errorf("validating scheduler configuration: %w", err)
	}
	return c, nil
}

func setDefaults(c *configv1.KubeSchedulerConfiguration) {
	setDefault(&c.Parallelism, 16)
	setDefault(&c.PercentageOfNodesToScore, 0)
	setDefault(&c.PodInitialBackoffSeconds, 1)
	setDefault(&c.PodMaxBackoffSeconds, 10)
	if len(c.Profiles) == 0 {
		c.Profiles = []configv1.KubeSchedulerProfile{{}}
	}
	if len(c.Profiles) == 1 {
		setDefault(&c.Profiles[0].SchedulerName, corev1.DefaultSchedulerName)
	}
	if c.LeaderElection.ResourceLock == "" {
		c.LeaderElection.ResourceLock = "leases"
	}
	if c.LeaderElection.ResourceName == "" {
		c.LeaderElection.ResourceName = configv1.SchedulerDefaultLockObjectName
	}
	if c.LeaderElection.ResourceNamespace == "" {
		c.LeaderElection.ResourceNamespace = configv1.SchedulerDefaultLockObjectNamespace
	}
	baseconfig.RecommendedDefaultLeaderElectionConfiguration(&c.LeaderElection)
	if c.ClientConnection.QPS == 0 {
		c.ClientConnection.QPS = 50
	}
	if c.ClientConnection.Burst == 0 {
		c.ClientConnection.Burst = 100
	}
}

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// Validate reports all that is wrong with a configuration whose defaults have
// been filled in.
func Validate(c *configv1.KubeSchedulerConfiguration) error {
	var errs field.ErrorList
	if *c.Parallelism <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("parallelism"), *c.Parallelism, "should be an integer value greater than zero"))
	}
	errs = append(errs, validatePercentage(field.NewPath("percentageOfNodesToScore"), c.PercentageOfNodesToScore)...)
	if *c.PodInitialBackoffSeconds <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), *c.PodInitialBackoffSeconds, "must be greater than 0"))
	}
	if *c.PodMaxBackoffSeconds < *c.PodInitialBackoffSeconds {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), *c.PodMaxBackoffSeconds, "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	if len(c.Extenders) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("extenders"), "extenders are not supported by this scheduler"))
	}
	return append(errs, validateProfiles(field.NewPath("profiles"), c.Profiles)...).ToAggregate()
}

func validateProfiles(path *field.Path, profiles []configv1.KubeSchedulerProfile) field.ErrorList {
	var errs field.ErrorList
	var names []string
	for i := range profiles {
		p, at := &profiles[i], path.Index(i)
		switch {
		case p.SchedulerName == nil || *p.SchedulerName == "":
			errs = append(errs, field.Required(at.Child("schedulerName"), ""))
		case slices.Contains(names, *p.SchedulerName):
			errs = append(errs, field.Duplicate(at.Child("schedulerName"), *p.SchedulerName))
		default:
			names = append(names, *p.SchedulerName)
		}
		errs = append(errs, validatePercentage(at.Child("percentageOfNodesToScore"), p.PercentageOfNodesToScore)...)
		var configured []string
		for j := range p.PluginConfig {
			name := p.PluginConfig[j].Name
			if slices.Contains(configured, name) {
				errs = append(errs, field.Duplicate(at.Child("pluginConfig").Index(j), name))
			}
			configured = append(configured, name)
		}
	}
	return errs
}

func validatePercentage(path *field.Path, p *int32) field.ErrorList {
	if p != nil && (*p < 0 || *p > 100) {
		return field.ErrorList{field.Invalid(path, *p, "not in valid range [0-100]")}
	}
	return nil
}

// Args fills into with the profile's configuration of a plugin, if there is
// any. The kind may be given, and must then be the plugin's.
func Args(p *configv1.KubeSchedulerProfile, plugin string, into any) error {
	for i := range p.PluginConfig {
		if p.PluginConfig[i].Name != plugin {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(p.PluginConfig[i].Args.Raw))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			return fmt.Errorf("decoding args for plugin %s: %w", plugin, err)
		}
		var kind struct{ APIVersion, Kind string }
		if err := json.Unmarshal(p.PluginConfig[i].Args.Raw, &kind); err != nil {
			return fmt.Errorf("decoding args for plugin %s: %w", plugin, err)
		}
		if kind.Kind != "" && kind.Kind != plugin+"Args" {
			return fmt.Errorf("args for plugin %s were not of type %sArgs, got %s", plugin, plugin, kind.Kind)
		}
	}
	return nil
}
