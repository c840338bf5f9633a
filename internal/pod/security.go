package pod

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/check"
)

func isTrue(b *bool) bool  { return b != nil && *b }
func isFalse(b *bool) bool { return b != nil && !*b }

// validateSecurity checks the pod's security context and what it shares with
// the host.
func (v *validator) validateSecurity(spec *check.Report) {
	v.validateHostUsers(spec)
	c, r := v.spec.SecurityContext, spec.At("securityContext")
	if isTrue(v.spec.ShareProcessNamespace) && v.spec.HostPID {
		r.At("shareProcessNamespace").Invalid(true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	if c == nil {
		return
	}
	r.At("fsGroup").GroupID(c.FSGroup)
	r.At("runAsUser").UserID(c.RunAsUser)
	r.At("runAsGroup").GroupID(c.RunAsGroup)
	for i := range c.SupplementalGroups {
		r.At("supplementalGroups").Index(i).GroupID(&c.SupplementalGroups[i])
	}
	if p := c.SupplementalGroupsPolicy; p != nil {
		check.OneOf(r.At("supplementalGroupsPolicy"), *p, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	v.validateSysctls(r.At("sysctls"), c.Sysctls)
	if p := c.FSGroupChangePolicy; p != nil {
		check.OneOf(r.At("fsGroupChangePolicy"), *p, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	if p := c.SELinuxChangePolicy; p != nil {
		check.OneOf(r.At("seLinuxChangePolicy"), *p, corev1.SELinuxChangePolicyRecursive, corev1.SELinuxChangePolicyMountOption)
	}
	validateSeccomp(r.At("seccompProfile"), c.SeccompProfile)
	validateAppArmor(r.At("appArmorProfile"), c.AppArmorProfile)
	validateWindowsOptions(r.At("windowsOptions"), c.WindowsOptions)
}

// validateHostUsers: a pod in a user namespace of its own cannot be in other
// namespaces of the host (KEP-127).
func (v *validator) validateHostUsers(r *check.Report) {
	if !isFalse(v.spec.HostUsers) {
		return
	}
	const text = "when `hostUsers` is false"
	if v.spec.HostNetwork {
		r.At("hostNetwork").Forbidden(text)
	}
	if v.spec.HostPID {
		r.At("HostPID").Forbidden(text)
	}
	if v.spec.HostIPC {
		r.At("HostIPC").Forbidden(text)
	}
	for i := range v.spec.Containers {
		if len(v.spec.Containers[i].VolumeDevices) > 0 {
			r.At("containers").Index(i).At("volumeDevices").Forbidden(text)
		}
	}
	for i := range v.spec.InitContainers {
		if len(v.spec.InitContainers[i].VolumeDevices) > 0 {
			r.At("initContainers").Index(i).At("volumeDevices").Forbidden(text)
		}
	}
}

const (
	sysctlPattern   = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`
	sysctlMaxLength = 253
)

var sysctlName = regexp.MustCompile(sysctlPattern)

func (v *validator) validateSysctls(r *check.Report, sysctls []corev1.Sysctl) {
	seen := map[string]bool{}
	for i, s := range sysctls {
		at := r.Index(i).At("name")
		if !at.RequiredString(s.Name) {
			continue
		}
		if len(s.Name) > sysctlMaxLength || !sysctlName.MatchString(s.Name) {
			at.Invalid(s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", sysctlMaxLength, sysctlPattern))
		} else if seen[s.Name] {
			at.Duplicate(s.Name)
		}
		seen[s.Name] = true
		switch sysctlNamespace(s.Name) {
		case "net":
			if v.spec.HostNetwork {
				at.Invalid(s.Name, "may not be specified when 'hostNetwork' is true")
			}
		case "ipc":
			if v.spec.HostIPC {
				at.Invalid(s.Name, "may not be specified when 'hostIPC' is true")
			}
		}
	}
}

// sysctlNamespace says in which of the kernel's namespaces a parameter lives;
// "" for the whole machine's.
func sysctlNamespace(name string) string {
	name = strings.ReplaceAll(name, "/", ".")
	switch {
	case strings.HasPrefix(name, "net."):
		return "net"
	case name == "kernel.sem", strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"),
		strings.HasPrefix(name, "fs.mqueue."):
		return "ipc"
	}
	return ""
}

func (v *validator) validateContainerSecurity(r *check.Report, c *corev1.SecurityContext) {
	if c == nil {
		return
	}
	r.At("runAsUser").UserID(c.RunAsUser)
	r.At("runAsGroup").GroupID(c.RunAsGroup)
	if m := c.ProcMount; m != nil {
		check.OneOf(r.At("procMount"), *m, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *m == corev1.UnmaskedProcMount && !isFalse(v.spec.HostUsers) {
			r.At("procMount").Invalid(m, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	validateSeccomp(r.At("seccompProfile"), c.SeccompProfile)
	if isFalse(c.AllowPrivilegeEscalation) {
		if isTrue(c.Privileged) {
			r.Invalid(c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if c.Capabilities != nil {
			for _, name := range c.Capabilities.Add {
				if name == "CAP_SYS_ADMIN" {
					r.Invalid(c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	validateWindowsOptions(r.At("windowsOptions"), c.WindowsOptions)
	validateAppArmor(r.At("appArmorProfile"), c.AppArmorProfile)
}

func validateSeccomp(r *check.Report, p *corev1.SeccompProfile) {
	if p == nil {
		return
	}
	if p.Type == "" {
		r.At("type").Required("type is required when seccompProfile is set")
		return
	}
	at := r.At("localhostProfile")
	if p.Type == corev1.SeccompProfileTypeLocalhost {
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			at.Required("must be set when seccomp type is Localhost")
			return
		}
		at.RelativePath(*p.LocalhostProfile)
		return
	}
	if p.LocalhostProfile != nil {
		at.Invalid(p, "can only be set when seccomp type is Localhost")
	}
	check.OneOf(r.At("type"), p.Type,
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
}

// maxAppArmorProfile is PATH_MAX less the closing NUL.
const maxAppArmorProfile = 4095

func validateAppArmor(r *check.Report, p *corev1.AppArmorProfile) {
	if p == nil {
		return
	}
	at := r.At("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil {
			at.Required("must be set when AppArmor type is Localhost")
			return
		}
		name := *p.LocalhostProfile
		trimmed := strings.TrimSpace(name)
		if name != trimmed {
			at.Invalid(name, "must not be padded with whitespace")
		} else if trimmed == "" {
			at.Required("must be set when AppArmor type is Localhost")
		}
		if len(name) > maxAppArmorProfile {
			at.TooLong(maxAppArmorProfile)
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			at.Invalid(p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		r.At("type").Required("type is required when appArmorProfile is set")
	default:
		check.OneOf(r.At("type"), p.Type,
			corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// validateAppArmorAnnotations checks the annotations from before AppArmor had
// fields: each names a container of the pod and a well formed profile.
func validateAppArmorAnnotations(r *check.Report, annotations map[string]string, spec *corev1.PodSpec) {
	for _, k := range sortedKeys(annotations) {
		name, found := strings.CutPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !found {
			continue
		}
		known := false
		for c := range Containers(spec) {
			known = known || c.Name == name
		}
		if !known {
			r.Key(k).Invalid(name, "container not found")
		}
		if p := annotations[k]; p != "" && p != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault &&
			p != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
			!strings.HasPrefix(p, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			r.Key(k).Invalid(p, fmt.Sprintf("invalid AppArmor profile name: %q", p))
		}
	}
}
