package pod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

const (
	modeText      = "must be a number between 0 and 0777 (octal), both inclusive"
	noVolume      = "must specify a volume type"
	moreVolumes   = "may not specify more than 1 volume type"
	duplicatePath = "conflicting duplicate paths"
)

// A source is one alternative of a volume: its field, whether it is given, and
// what is checked if it is.
type source struct {
	field string
	given bool
	check func(*check.Report)
}

// validateVolumes checks spec.volumes and remembers them by name.
func (v *validator) validateVolumes(r *check.Report) {
	for i := range v.spec.Volumes {
		vol, at := &v.spec.Volumes[i], r.Index(i)
		v.validateSources(at, vol)
		if !at.At("name").RequiredString(vol.Name) {
			continue
		}
		at.At("name").Each(vol.Name, validation.IsDNS1123Label(vol.Name))
		if _, taken := v.volumes[vol.Name]; taken {
			at.At("name").Duplicate(vol.Name)
		}
		v.volumes[vol.Name] = &vol.VolumeSource
	}
}

// validateSources checks that a volume has exactly one source, and that source.
func (v *validator) validateSources(r *check.Report, vol *corev1.Volume) {
	n := 0
	for _, s := range append(v.sources(vol), legacySources(vol)...) {
		if !s.given {
			continue
		}
		if n++; n > 1 {
			r.At(s.field).Forbidden(moreVolumes)
			continue
		}
		s.check(r.At(s.field))
	}
	if n == 0 {
		r.Required(noVolume)
	}
}

func (v *validator) sources(vol *corev1.Volume) []source {
	return []source{
		{"emptyDir", vol.EmptyDir != nil, func(r *check.Report) { validateEmptyDir(r, vol.EmptyDir) }},
		{"hostPath", vol.HostPath != nil, func(r *check.Report) { validateHostPath(r, vol.HostPath) }},
		{"secret", vol.Secret != nil, func(r *check.Report) {
			r.At("secretName").RequiredString(vol.Secret.SecretName)
			validateMode(r.At("defaultMode"), vol.Secret.DefaultMode)
			validateItems(r.At("items"), vol.Secret.Items)
		}},
		{"nfs", vol.NFS != nil, func(r *check.Report) { validateNFS(r, vol.NFS) }},
		{"persistentVolumeClaim", vol.PersistentVolumeClaim != nil, func(r *check.Report) {
			r.At("claimName").RequiredString(vol.PersistentVolumeClaim.ClaimName)
		}},
		{"downwardAPI", vol.DownwardAPI != nil, func(r *check.Report) {
			validateMode(r.At("defaultMode"), vol.DownwardAPI.DefaultMode)
			for i := range vol.DownwardAPI.Items {
				validateDownwardFile(r, &vol.DownwardAPI.Items[i])
			}
		}},
		{"configMap", vol.ConfigMap != nil, func(r *check.Report) {
			r.At("name").RequiredString(vol.ConfigMap.Name)
			validateMode(r.At("defaultMode"), vol.ConfigMap.DefaultMode)
			validateItems(r.At("items"), vol.ConfigMap.Items)
		}},
		{"projected", vol.Projected != nil, func(r *check.Report) { validateProjected(r, vol.Projected) }},
		{"csi", vol.CSI != nil, func(r *check.Report) { validateCSI(r, vol.CSI) }},
		{"ephemeral", vol.Ephemeral != nil, func(r *check.Report) { v.validateEphemeralVolume(r, vol) }},
		{"image", vol.Image != nil, func(r *check.Report) {
			check.OneOf(r.At("pullPolicy"), vol.Image.PullPolicy, corev1.PullAlways, corev1.PullNever, corev1.PullIfNotPresent)
		}},
	}
}

func validateEmptyDir(r *check.Report, e *corev1.EmptyDirVolumeSource) {
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		r.At("sizeLimit").Forbidden("SizeLimit field must be a valid resource quantity")
	}
}

func validateHostPath(r *check.Report, h *corev1.HostPathVolumeSource) {
	if !r.At("path").RequiredString(h.Path) {
		return
	}
	r.At("path").NoBacksteps(h.Path)
	if h.Type != nil {
		check.OneOf(r.At("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
			corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)
	}
}

func validateNFS(r *check.Report, n *corev1.NFSVolumeSource) {
	r.At("server").RequiredString(n.Server)
	if r.At("path").RequiredString(n.Path) && !strings.HasPrefix(n.Path, "/") {
		r.At("path").Invalid(n.Path, "must be an absolute path")
	}
}

func validateMode(r *check.Report, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		r.Invalid(*mode, modeText)
	}
}

func validateItems(r *check.Report, items []corev1.KeyToPath) {
	for i := range items {
		it, at := &items[i], r.Index(i)
		at.At("key").RequiredString(it.Key)
		if at.At("path").RequiredString(it.Path) {
			at.At("path").FileName(it.Path)
		}
		validateMode(at.At("mode"), it.Mode)
	}
}

// validateDownwardFile reports at the volume, as upstream does: its errors do
// not say which item they are about.
func validateDownwardFile(r *check.Report, f *corev1.DownwardAPIVolumeFile) {
	if r.At("path").RequiredString(f.Path) {
		r.At("path").FileName(f.Path)
	}
	switch {
	case f.FieldRef != nil:
		validateFieldRef(r.At("fieldRef"), f.FieldRef, fileFields)
		if f.ResourceFieldRef != nil {
			r.Invalid("resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		validateResourceRef(r.At("resourceFieldRef"), f.ResourceFieldRef, true)
	default:
		r.Required("one of fieldRef and resourceFieldRef is required")
	}
	validateMode(r.At("mode"), f.Mode)
}

// driverNameLimit is what the CSI specification allows.
const driverNameLimit = 63

func validateCSI(r *check.Report, c *corev1.CSIVolumeSource) {
	at := r.At("driver")
	if at.RequiredString(c.Driver) {
		if len(c.Driver) > driverNameLimit {
			at.TooLong(driverNameLimit)
		}
		at.Each(c.Driver, validation.IsDNS1123Subdomain(strings.ToLower(c.Driver)))
	}
	if ref := c.NodePublishSecretRef; ref != nil {
		if name := r.At("nodePublishSecretRef", "name"); name.RequiredString(ref.Name) {
			name.Rule(ref.Name, check.DNSSubdomain)
		}
	}
}

// validateEphemeralVolume checks the template of a claim that is made for the
// pod and named after it (KEP-1698).
func (v *validator) validateEphemeralVolume(r *check.Report, vol *corev1.Volume) {
	t := vol.Ephemeral.VolumeClaimTemplate
	if t == nil {
		r.At("volumeClaimTemplate").Required("")
		return
	}
	at := r.At("volumeClaimTemplate")
	if v.meta != nil && v.meta.Name != "" && vol.Name != "" {
		name := v.meta.Name + "-" + vol.Name
		for _, fault := range validation.IsDNS1123Subdomain(name) {
			at.Invalid(name, `PVC name "`+name+`": `+fault)
		}
	}
	onlyLabels := metav1.ObjectMeta{Labels: t.Labels, Annotations: t.Annotations}
	if !equalMeta(&t.ObjectMeta, &onlyLabels) {
		at.At("metadata").Forbidden("only labels and annotations are allowed")
	}
	check.TemplateMeta(at.At("metadata"), &t.ObjectMeta)
	validateClaim(at.At("spec"), &t.Spec)
}

func equalMeta(a, b *metav1.ObjectMeta) bool {
	return a.Name == b.Name && a.GenerateName == b.GenerateName && a.Namespace == b.Namespace && a.UID == b.UID &&
		a.ResourceVersion == b.ResourceVersion && a.Generation == b.Generation && a.DeletionTimestamp == nil &&
		len(a.OwnerReferences)+len(a.Finalizers) == 0
}

// validateClaim checks what the spec of a claim template must hold.
func validateClaim(r *check.Report, c *corev1.PersistentVolumeClaimSpec) {
	modes := r.At("accessModes")
	if len(c.AccessModes) == 0 {
		modes.Required("at least 1 access mode is required")
	}
	alone, shared := false, false
	for _, m := range c.AccessModes {
		alone, shared = alone || m == corev1.ReadWriteOncePod, shared || m != corev1.ReadWriteOncePod
		check.OneOf(modes, m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
	}
	if alone && shared {
		modes.Forbidden("may not use ReadWriteOncePod with other access modes")
	}
	r.At("selector").LabelSelector(c.Selector)
	storage := r.At("resources").Key(string(corev1.ResourceStorage))
	q, given := c.Resources.Requests[corev1.ResourceStorage]
	switch {
	case !given:
		storage.Required("")
	case q.Sign() < 0:
		NonNegativeQuantity(storage, q)
	case q.Sign() == 0:
		storage.Invalid(q.String(), "must be greater than zero")
	}
	if c.StorageClassName != nil && *c.StorageClassName != "" {
		r.At("storageClassName").Rule(*c.StorageClassName, check.DNSSubdomain)
	}
	if c.VolumeMode != nil {
		check.OneOf(r.At("volumeMode"), *c.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
	if d := c.DataSource; d != nil {
		validateDataSource(r.At("dataSource"), d.APIGroup, d.Kind, d.Name)
	}
	if d := c.DataSourceRef; d != nil {
		validateDataSource(r.At("dataSourceRef"), d.APIGroup, d.Kind, d.Name)
	}
}

func validateDataSource(r *check.Report, group *string, kind, name string) {
	r.At("name").RequiredString(name)
	r.At("kind").RequiredString(kind)
	if (group == nil || *group == "") && kind != "PersistentVolumeClaim" {
		r.Invalid(kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
	if group != nil && *group != "" {
		r.At("apiGroup").Each(*group, validation.IsDNS1123Subdomain(*group))
	}
}
