package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// The fields that the downward API offers to environment variables and to files.
// https://kubernetes.io/docs/concepts/workloads/pods/downward-api/
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	fileFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	// knownFields are all that are fields of a pod at all for the downward API.
	knownFields = append([]string{
		"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host",
	}, envFields...)
	// resourceFields are what a resourceFieldRef may name, beside huge pages.
	envResources = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
)

const maxFileKey = 128

func (v *validator) validateEnv(r *check.Report, env []corev1.EnvVar) {
	for i := range env {
		e, at := &env[i], r.Index(i)
		if at.At("name").RequiredString(e.Name) {
			at.At("name").Each(e.Name, validation.IsRelaxedEnvVarName(e.Name))
		}
		if e.ValueFrom != nil {
			v.validateEnvSource(at.At("valueFrom"), e)
		}
	}
}

func (v *validator) validateEnvSource(r *check.Report, e *corev1.EnvVar) {
	from, n := e.ValueFrom, 0
	if from.FieldRef != nil {
		n++
		validateFieldRef(r.At("fieldRef"), from.FieldRef, envFields)
	}
	if from.ResourceFieldRef != nil {
		n++
		validateResourceRef(r.At("resourceFieldRef"), from.ResourceFieldRef, false)
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		n++
		validateKeyRef(r.At("configMapKeyRef"), ref.Name, ref.Key)
	}
	if ref := from.SecretKeyRef; ref != nil {
		n++
		validateKeyRef(r.At("secretKeyRef"), ref.Name, ref.Key)
	}
	if from.FileKeyRef != nil {
		n++
		v.validateFileKey(r.At("fileKeyRef"), from.FileKeyRef)
	}
	switch {
	case n == 0:
		r.Invalid("", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case e.Value != "":
		r.Invalid("", "may not be specified when `value` is not empty")
	case n > 1:
		r.Invalid("", "may not have more than one field specified at a time")
	}
}

func validateKeyRef(r *check.Report, name, key string) {
	r.At("name").Rule(name, check.DNSSubdomain)
	if r.At("key").RequiredString(key) {
		r.At("key").Each(key, validation.IsConfigMapKey(key))
	}
}

// validateFileKey checks a reference to a variable in a file of an emptyDir
// volume (KEP-3721).
func (v *validator) validateFileKey(r *check.Report, ref *corev1.FileKeySelector) {
	if r.At("volumeName").RequiredString(ref.VolumeName) {
		if vol, ok := v.volumes[ref.VolumeName]; !ok {
			r.At("volumeName").NotFound(ref.VolumeName)
		} else if vol.EmptyDir == nil {
			r.At("volumeName").Invalid(ref.VolumeName, "referenced volume must be of type emptyDir")
		}
	}
	if r.At("path").RequiredString(ref.Path) {
		r.At("path").FileName(ref.Path)
	}
	if r.At("key").RequiredString(ref.Key) {
		r.At("key").Each(ref.Key, validation.IsRelaxedEnvVarName(ref.Key))
		if len(ref.Key) > maxFileKey {
			r.At("key").TooLong(maxFileKey)
		}
	}
}

func validateEnvFrom(r *check.Report, sources []corev1.EnvFromSource) {
	for i := range sources {
		s, at, n := &sources[i], r.Index(i), 0
		if s.Prefix != "" {
			at.At("prefix").Each(s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))
		}
		if s.ConfigMapRef != nil {
			n++
			validateSourceName(at.At("configMapRef", "name"), s.ConfigMapRef.Name)
		}
		if s.SecretRef != nil {
			n++
			validateSourceName(at.At("secretRef", "name"), s.SecretRef.Name)
		}
		if n == 0 {
			at.Invalid("", "must specify one of: `configMapRef` or `secretRef`")
		} else if n > 1 {
			at.Invalid("", "may not have more than one field specified at a time")
		}
	}
}

func validateSourceName(r *check.Report, name string) {
	if r.RequiredString(name) {
		r.Rule(name, check.DNSSubdomain)
	}
}

// validateFieldRef checks a reference to a field of the pod itself.
func validateFieldRef(r *check.Report, ref *corev1.ObjectFieldSelector, allowed []string) {
	if !r.At("apiVersion").RequiredString(ref.APIVersion) || !r.At("fieldPath").RequiredString(ref.FieldPath) {
		return
	}
	if path, key, ok := Subscript(ref.FieldPath); ok {
		switch path {
		case "metadata.annotations":
			r.Each(strings.ToLower(key), validation.IsQualifiedName(strings.ToLower(key)))
		case "metadata.labels":
			r.Each(key, validation.IsQualifiedName(key))
		default:
			r.Invalid(path, "does not support subscript")
		}
		return
	}
	at := r.At("fieldPath")
	if ref.APIVersion != "v1" {
		at.Invalid(ref.FieldPath, "error converting fieldPath: unsupported pod version: "+ref.APIVersion)
		return
	}
	path := ref.FieldPath
	if !slices.Contains(knownFields, path) {
		at.Invalid(path, "error converting fieldPath: field label not supported: "+path)
		return
	}
	if path == "spec.host" {
		path = "spec.nodeName"
	}
	check.OneOf(at, path, allowed...)
}

// Subscript splits a field path such as metadata.labels['app'] into the path
// and the key; ok says that it has that form.
func Subscript(path string) (field, key string, ok bool) {
	inner, found := strings.CutSuffix(path, "']")
	if !found {
		return path, "", false
	}
	field, key, ok = strings.Cut(inner, "['")
	if !ok || field == "" {
		return path, "", false
	}
	return field, key, true
}

// validateResourceRef checks a reference to a request or limit of a container,
// which a file must name; a variable's own container is its default.
func validateResourceRef(r *check.Report, ref *corev1.ResourceFieldSelector, file bool) {
	if file && !r.At("containerName").RequiredString(ref.ContainerName) {
		return
	}
	if !r.At("resource").RequiredString(ref.Resource) {
		return
	}
	if !slices.Contains(envResources, ref.Resource) && !isHugePagesRef(ref.Resource) {
		check.OneOf(r.At("resource"), ref.Resource, envResources...)
	}
	validateDivisor(r.At("divisor"), ref.Resource, ref.Divisor)
}

func isHugePagesRef(name string) bool {
	_, res, _ := strings.Cut(name, ".")
	return strings.HasPrefix(name, "limits.") && isHugePages(corev1.ResourceName(res)) ||
		strings.HasPrefix(name, "requests.") && isHugePages(corev1.ResourceName(res))
}

var (
	cpuDivisors  = []string{"1m", "1"}
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func validateDivisor(r *check.Report, name string, d resource.Quantity) {
	if d.IsZero() {
		return
	}
	_, res, _ := strings.Cut(name, ".")
	allowed, noun := byteDivisors, ""
	switch {
	case res == "cpu":
		if !slices.Contains(cpuDivisors, d.String()) {
			r.Invalid(name, "only divisor's values 1m and 1 are supported with the cpu resource")
		}
		return
	case res == "memory":
		noun = "memory"
	case res == "ephemeral-storage":
		noun = "local ephemeral storage"
	case isHugePagesRef(name):
		noun = "hugepages"
	default:
		return
	}
	if !slices.Contains(allowed, d.String()) {
		r.Invalid(name, fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(allowed, ", "), noun))
	}
}
