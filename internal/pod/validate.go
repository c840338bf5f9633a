package pod

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// ValidateCreate reports the faults of a new pod beyond its metadata.
func ValidateCreate(r *check.Report, p *corev1.Pod) {
	validateMetaAndSpec(r, p)
	spec := r.At("spec")
	if len(p.Spec.EphemeralContainers) > 0 {
		spec.At("ephemeralContainers").Forbidden("cannot be set on create")
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		spec.At("nodeName").Forbidden("cannot be set until all schedulingGates have been cleared")
	}
	validateIPs(r.At("status"), &p.Status)
}

// validateMetaAndSpec checks what a pod must satisfy whenever it is written.
func validateMetaAndSpec(r *check.Report, p *corev1.Pod) {
	annotations := r.At("metadata", "annotations")
	validateAnnotations(annotations, p.Annotations, &p.Spec)
	if v, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror && p.Spec.NodeName == "" {
		annotations.Key(corev1.MirrorPodAnnotationKey).Invalid(v, "must set spec.nodeName if mirror pod annotation is set")
	}
	ValidateSpec(r.At("spec"), &p.Spec, &p.ObjectMeta)
	validateImageReferences(r.At("spec"), &p.Spec)
}

// ValidateTemplate reports the faults of a pod template. A template equal to
// the stored one was accepted before and is not looked at again, so that rules
// which have become stricter do not block changes elsewhere in the object.
func ValidateTemplate(r *check.Report, t, old *corev1.PodTemplateSpec) {
	if old != nil && equality.Semantic.DeepEqual(t, old) {
		return
	}
	check.TemplateMeta(r.At("metadata"), &t.ObjectMeta)
	validateAnnotations(r.At("metadata", "annotations"), t.Annotations, &t.Spec)
	ValidateSpec(r.At("spec"), &t.Spec, nil)
	if len(t.Spec.EphemeralContainers) > 0 {
		r.At("spec", "ephemeralContainers").Forbidden("ephemeral containers not allowed in pod template")
	}
	Warn(r, &t.ObjectMeta, &t.Spec)
}

func validateAnnotations(r *check.Report, annotations map[string]string, spec *corev1.PodSpec) {
	if v, ok := annotations[corev1.PodDeletionCost]; ok {
		if n, err := strconv.ParseInt(v, 10, 32); err != nil || strconv.FormatInt(n, 10) != v {
			r.Key(corev1.PodDeletionCost).Invalid(v, "must be a 32bit integer")
		}
	}
	validateAppArmorAnnotations(r, annotations, spec)
}

// A validator holds what the checks of one spec need from all over it.
type validator struct {
	spec    *corev1.PodSpec
	meta    *metav1.ObjectMeta // nil in a template
	volumes map[string]*corev1.VolumeSource
	claims  map[string]bool // names in spec.resourceClaims
	names   map[string]bool // of the containers seen so far
}

// ValidateSpec reports the faults of a pod spec at r; meta is the pod's
// metadata, nil in a template.
func ValidateSpec(r *check.Report, spec *corev1.PodSpec, meta *metav1.ObjectMeta) {
	v := &validator{
		spec: spec, meta: meta, volumes: map[string]*corev1.VolumeSource{},
		claims: map[string]bool{}, names: map[string]bool{},
	}
	v.validateVolumes(r.At("volumes"))
	v.validateResourceClaims(r.At("resourceClaims"))
	v.validateContainers(r)
	v.validateInitContainers(r.At("initContainers"))
	v.validateEphemeralContainers(r.At("ephemeralContainers"))
	v.validatePodResources(r)
	check.RequiredOneOf(r.At("restartPolicy"), spec.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	v.validateNetwork(r)
	v.validateSecurity(r)
	v.validateScheduling(r)
	v.validateOS(r)
	v.validateTimes(r)
	v.validateReferences(r)
}

func (v *validator) validateTimes(r *check.Report) {
	if d := v.spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		r.At("activeDeadlineSeconds").Invalid(*d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	if v.spec.TerminationGracePeriodSeconds == nil {
		r.At("terminationGracePeriodSeconds").Required("")
	}
}

// validateReferences checks the names of other objects that the spec holds.
func (v *validator) validateReferences(r *check.Report) {
	for _, ref := range []struct{ field, name string }{
		{"serviceAccountName", v.spec.ServiceAccountName},
		{"nodeName", v.spec.NodeName},
		{"priorityClassName", v.spec.PriorityClassName},
	} {
		if ref.name != "" {
			r.At(ref.field).Rule(ref.name, check.DNSSubdomain)
		}
	}
	if name := v.spec.RuntimeClassName; name != nil {
		r.At("runtimeClassName").Rule(*name, check.DNSSubdomain)
	}
	for i, g := range v.spec.ReadinessGates {
		r.At("readinessGates").Index(i).At("conditionType").Each(string(g.ConditionType), validation.IsQualifiedName(string(g.ConditionType)))
	}
}

// validateResourceClaims checks spec.resourceClaims and remembers the names.
func (v *validator) validateResourceClaims(r *check.Report) {
	for i := range v.spec.ResourceClaims {
		c, at := &v.spec.ResourceClaims[i], r.Index(i)
		switch {
		case c.Name == "":
			at.At("name").Required("")
		case v.claims[c.Name]:
			at.At("name").Duplicate(c.Name)
		default:
			at.At("name").Each(c.Name, validation.IsDNS1123Label(c.Name))
		}
		v.claims[c.Name] = true
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			at.Invalid(c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			at.Invalid(c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		case c.ResourceClaimName != nil:
			at.At("resourceClaimName").Rule(*c.ResourceClaimName, check.DNSSubdomain)
		default:
			at.At("resourceClaimTemplateName").Rule(*c.ResourceClaimTemplateName, check.DNSSubdomain)
		}
	}
}

// validateImageReferences asks of a pod what a template need not satisfy, since
// admission may see to it: images without blanks, image volumes with a reference.
func validateImageReferences(r *check.Report, spec *corev1.PodSpec) {
	v := &validator{spec: spec}
	v.eachContainer(r, func(at *check.Report, c *corev1.Container) {
		if strings.TrimSpace(c.Image) != c.Image {
			at.At("image").Invalid(c.Image, "must not have leading or trailing whitespace")
		}
	})
	for i := range spec.Volumes {
		if img := spec.Volumes[i].Image; img != nil {
			r.At("volumes").Index(i).At("image", "reference").RequiredString(img.Reference)
		}
	}
}

// oneHandler checks that of several alternatives exactly one is given: each is
// the name of a field, given or not.
func oneHandler(r *check.Report, noneText, moreText string, fields []string, given []bool) {
	n := 0
	for i, g := range given {
		if !g {
			continue
		}
		if n++; n > 1 {
			r.At(fields[i]).Forbidden(moreText)
		}
	}
	if n == 0 {
		r.Required(noneText)
	}
}

func nameList(set map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
