package pod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"skiff.dev/skiff/internal/check"
)

// containerResources are the names without a domain that a container may ask for.
var containerResources = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true,
}

// IsExtended reports whether name is an extended resource: one with a domain
// outside kubernetes.io, counted in integers.
func IsExtended(name corev1.ResourceName) bool {
	if isNative(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// canOvercommit: of native resources other than huge pages a node may promise
// more than it has.
func canOvercommit(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

func (v *validator) validateContainerResources(r *check.Report, res *corev1.ResourceRequirements) {
	v.validateClaimNames(r.At("claims"), res.Claims)
	validateRequirements(r, res, validateContainerResourceName)
}

// validateRequirements checks limits, requests and how they relate; names is
// the rule for the resource names.
func validateRequirements(r *check.Report, res *corev1.ResourceRequirements, names func(*check.Report, corev1.ResourceName)) {
	limits, requests := r.At("limits"), r.At("requests")
	compute, huge := false, false
	note := func(name corev1.ResourceName) {
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		huge = huge || isHugePages(name)
	}
	for _, name := range sortedNames(res.Limits) {
		at, q := limits.Key(string(name)), res.Limits[name]
		names(at, name)
		ValidateQuantity(at, name, q)
		validateHugePages(at, name, q)
		note(name)
	}
	for _, name := range sortedNames(res.Requests) {
		at, q := requests.Key(string(name)), res.Requests[name]
		names(at, name)
		ValidateQuantity(at, name, q)
		validateHugePages(at, name, q)
		note(name)
		limit, limited := res.Limits[name]
		switch {
		case limited && !canOvercommit(name) && q.Cmp(limit) != 0:
			requests.Invalid(q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case limited && q.Cmp(limit) > 0:
			requests.Invalid(q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		case !limited && !canOvercommit(name):
			limits.Required("Limit must be set for non overcommitable resources")
		}
	}
	if huge && !compute {
		r.Forbidden("HugePages require cpu or memory")
	}
}

func validateContainerResourceName(r *check.Report, name corev1.ResourceName) {
	validateResourceName(r, name)
	if !strings.Contains(string(name), "/") {
		if !containerResources[name] && !isHugePages(name) {
			r.Invalid(name, "must be a standard resource for containers")
		}
	} else if !isNative(name) && !IsExtended(name) {
		r.Invalid(name, "doesn't follow extended resource name standard")
	}
}

// standardResources are all names without a domain that mean something anywhere.
var standardResources = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true,
	corev1.ResourceRequestsCPU: true, corev1.ResourceRequestsMemory: true, corev1.ResourceRequestsEphemeralStorage: true,
	corev1.ResourceLimitsCPU: true, corev1.ResourceLimitsMemory: true, corev1.ResourceLimitsEphemeralStorage: true,
	corev1.ResourcePods: true, corev1.ResourceQuotas: true, corev1.ResourceServices: true,
	corev1.ResourceReplicationControllers: true, corev1.ResourceSecrets: true,
	corev1.ResourcePersistentVolumeClaims: true, corev1.ResourceConfigMaps: true,
	corev1.ResourceStorage: true, corev1.ResourceRequestsStorage: true,
	corev1.ResourceServicesNodePorts: true, corev1.ResourceServicesLoadBalancers: true,
}

// ValidateResourceName checks the name of any resource, a node's included.
func ValidateResourceName(r *check.Report, name corev1.ResourceName) { validateResourceName(r, name) }

func validateResourceName(r *check.Report, name corev1.ResourceName) {
	faults := validation.IsQualifiedName(string(name))
	r.Each(name, faults)
	if len(faults) == 0 && !strings.Contains(string(name), "/") && !standardResources[name] && !isHugePages(name) {
		r.Invalid(name, "must be a standard resource type or fully qualified")
	}
}

// ValidateQuantity checks an amount of a resource: not negative, and whole
// where the resource is counted.
func ValidateQuantity(r *check.Report, name corev1.ResourceName, q resource.Quantity) {
	NonNegativeQuantity(r, q)
	if IsExtended(name) && q.MilliValue()%1000 != 0 {
		r.Invalid(q, "must be an integer")
	}
}

// NonNegativeQuantity checks that q is at least 0.
func NonNegativeQuantity(r *check.Report, q resource.Quantity) {
	if q.Sign() < 0 {
		r.Invalid(q.String(), "must be greater than or equal to 0")
	}
}

func validateHugePages(r *check.Report, name corev1.ResourceName, q resource.Quantity) {
	if !isHugePages(name) {
		return
	}
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || size.Value() == 0 || size.MilliValue()%1000 != 0 {
		r.Invalid(name, "page size must be a positive number of bytes")
		return
	}
	if q.Value()%size.Value() != 0 {
		r.Invalid(q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))
	}
}

// validateClaimNames checks the claims a container uses against those of the pod.
func (v *validator) validateClaimNames(r *check.Report, claims []corev1.ResourceClaim) {
	seen := map[corev1.ResourceClaim]bool{}
	for i, c := range claims {
		at := r.Index(i)
		if !at.RequiredString(c.Name) {
			continue
		}
		whole := corev1.ResourceClaim{Name: c.Name}
		if seen[c] || c.Request != "" && seen[whole] {
			at.Duplicate(c.Name)
		}
		seen[c] = true
		if c.Request != "" {
			at.At("request").Each(c.Request, validation.IsDNS1123Label(c.Request))
		}
		if !v.claims[c.Name] {
			detail := "must be one of the names in pod.spec.resourceClaims which is empty"
			if len(v.claims) > 0 {
				detail = "must be one of the names in pod.spec.resourceClaims: " + nameList(v.claims)
			}
			fault := field.NotFound(at.Path(), c.Name)
			fault.Detail = detail
			at.Add(fault)
		}
	}
}

// validatePodResources checks spec.resources (KEP-2837): they cover all
// containers, so they cannot be less than these ask for together.
func (v *validator) validatePodResources(spec *check.Report) {
	res, r := v.spec.Resources, spec.At("resources")
	if res == nil {
		return
	}
	if len(res.Claims) > 0 {
		r.At("claims").Forbidden("claims cannot be set for Resources at pod-level")
	}
	validateRequirements(r, res, func(at *check.Report, name corev1.ResourceName) {
		if !resourcehelper.IsSupportedPodLevelResource(name) {
			check.OneOf(at, name, corev1.ResourceCPU, corev1.ResourceHugePagesPrefix, corev1.ResourceMemory)
		}
	})
	p := &corev1.Pod{Spec: *v.spec}
	sum := resourcehelper.AggregateContainerRequests(p, resourcehelper.PodResourcesOptions{})
	for _, name := range sortedNames(res.Requests) {
		q, total := res.Requests[name], sum[name]
		if q.Cmp(total) < 0 {
			r.At("requests").Key(string(name)).Invalid(q.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", total.String()))
		}
	}
	for _, list := range []struct {
		field string
		all   []corev1.Container
	}{{"containers", v.spec.Containers}, {"initContainers", v.spec.InitContainers}} {
		for i := range list.all {
			limits := list.all[i].Resources.Limits
			for _, name := range sortedNames(limits) {
				q := limits[name]
				if pod, ok := res.Limits[name]; ok && q.Cmp(pod) > 0 {
					spec.At(list.field).Index(i).At("resources", "limits").Key(string(name)).
						Invalid(q.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", pod.String()))
				}
			}
		}
	}
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}
