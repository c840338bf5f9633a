package pod

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff.dev/skiff/internal/check"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// deprecatedNodeLabels are node labels that have successors.
var deprecatedNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                  `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                    `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region": `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":   `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":         `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
}

// Warn adds the warnings for deprecated and probably mistaken fields of a spec
// at r's "spec".
func Warn(r *check.Report, m *metav1.ObjectMeta, spec *corev1.PodSpec) {
	at := r.At("spec")
	warn := func(p *field.Path, format string, args ...any) {
		r.Warn(p.String() + ": " + fmt.Sprintf(format, args...))
	}
	for _, k := range sortedKeys(spec.NodeSelector) {
		if text, ok := deprecatedNodeLabels[k]; ok {
			warn(at.At("nodeSelector").Key(k).Path(), "%s", text)
		}
	}
	for i := range spec.TopologySpreadConstraints {
		c := &spec.TopologySpreadConstraints[i]
		if text, ok := deprecatedNodeLabels[c.TopologyKey]; ok {
			warn(at.At("topologySpreadConstraints").Index(i).At("topologyKey").Path(), "%s is %s", c.TopologyKey, text)
		}
	}
	if spec.TerminationGracePeriodSeconds != nil && *spec.TerminationGracePeriodSeconds < 0 {
		warn(at.At("terminationGracePeriodSeconds").Path(), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	for i, s := range spec.ImagePullSecrets {
		if s.Name == "" {
			warn(at.At("imagePullSecrets").Index(i).Path(), "invalid empty name %q", s.Name)
		}
	}
	seen := map[string]bool{}
	for i, a := range spec.HostAliases {
		if seen[a.IP] {
			warn(at.At("hostAliases").Index(i).At("ip").Path(), "duplicate ip %q", a.IP)
		}
		seen[a.IP] = true
	}
	for _, k := range sortedKeys(m.Annotations) {
		if k == corev1.SeccompPodAnnotationKey {
			warn(r.At("metadata", "annotations").Key(k).Path(),
				"non-functional in v1.27+; use the \"seccompProfile\" field instead")
		}
	}
	warnVolumes(at.At("volumes"), spec.Volumes, warn)
	v := &validator{spec: spec}
	v.eachContainer(at, func(at *check.Report, c *corev1.Container) { warnContainer(at, c, warn) })
}

type warner = func(p *field.Path, format string, args ...any)

func warnVolumes(r *check.Report, volumes []corev1.Volume, warn warner) {
	for i := range volumes {
		v, p := &volumes[i], r.Index(i).Path()
		switch {
		case v.PhotonPersistentDisk != nil:
			warn(p.Child("photonPersistentDisk"), "deprecated in v1.11, non-functional in v1.16+")
		case v.GitRepo != nil:
			warn(p.Child("gitRepo"), "deprecated in v1.11, and disabled by default in v1.33+")
		case v.ScaleIO != nil:
			warn(p.Child("scaleIO"), "deprecated in v1.16, non-functional in v1.22+")
		case v.Flocker != nil:
			warn(p.Child("flocker"), "deprecated in v1.22, non-functional in v1.25+")
		case v.StorageOS != nil:
			warn(p.Child("storageOS"), "deprecated in v1.22, non-functional in v1.25+")
		case v.Quobyte != nil:
			warn(p.Child("quobyte"), "deprecated in v1.22, non-functional in v1.25+")
		case v.Glusterfs != nil:
			warn(p.Child("glusterfs"), "deprecated in v1.25, non-functional in v1.26+")
		case v.RBD != nil:
			warn(p.Child("rbd"), "deprecated in v1.28, non-functional in v1.31+")
		case v.CephFS != nil:
			warn(p.Child("cephfs"), "deprecated in v1.28, non-functional in v1.31+")
		}
	}
}

func warnContainer(r *check.Report, c *corev1.Container, warn warner) {
	if q, ok := c.Resources.Requests[corev1.ResourceMemory]; ok && q.MilliValue()%1000 != 0 {
		warn(r.At("resources", "requests").Key("memory").Path(), "fractional byte value %q is invalid, must be an integer", q.String())
	}
	if q, ok := c.Resources.Limits[corev1.ResourceMemory]; ok && q.MilliValue()%1000 != 0 {
		warn(r.At("resources", "limits").Key("memory").Path(), "fractional byte value %q is invalid, must be an integer", q.String())
	}
	env := map[string]int{}
	for i, e := range c.Env {
		if first, ok := env[e.Name]; ok {
			warn(r.At("env").Index(i).Path(), "hides previous definition of %q, which may be dropped when using apply", c.Env[first].Name)
		}
		env[e.Name] = i
	}
	type port struct {
		number   int32
		protocol corev1.Protocol
		host     int32
	}
	ports := map[port]int{}
	for i, p := range c.Ports {
		key := port{p.ContainerPort, p.Protocol, p.HostPort}
		if first, ok := ports[key]; ok {
			warn(r.At("ports").Index(i).Path(), "duplicate port definition with %s", r.At("ports").Index(first).Path())
		}
		ports[key] = i
	}
}
