package pod

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// validateOS checks spec.os and that only fields of that system are set.
func (v *validator) validateOS(r *check.Report) {
	v.validateHostProcess(r)
	if v.spec.OS == nil {
		return
	}
	switch name := v.spec.OS.Name; name {
	case "":
		r.At("os", "name").Required("cannot be empty")
	case corev1.Linux:
		v.validateLinux(r)
	case corev1.Windows:
		v.validateWindows(r)
	default:
		check.OneOf(r.At("os", "name"), name, corev1.Linux, corev1.Windows)
	}
}

// eachContainer calls f with every container and the report at it.
func (v *validator) eachContainer(r *check.Report, f func(*check.Report, *corev1.Container)) {
	for i := range v.spec.Containers {
		f(r.At("containers").Index(i), &v.spec.Containers[i])
	}
	for i := range v.spec.InitContainers {
		f(r.At("initContainers").Index(i), &v.spec.InitContainers[i])
	}
	for i := range v.spec.EphemeralContainers {
		f(r.At("ephemeralContainers").Index(i), (*corev1.Container)(&v.spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

func (v *validator) validateLinux(r *check.Report) {
	const text = "windows options cannot be set for a linux pod"
	if c := v.spec.SecurityContext; c != nil && c.WindowsOptions != nil {
		r.At("securityContext", "windowsOptions").Forbidden(text)
	}
	v.eachContainer(r, func(at *check.Report, c *corev1.Container) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			at.At("securityContext", "windowsOptions").Forbidden(text)
		}
	})
}

func (v *validator) validateWindows(r *check.Report) {
	forbid := func(at *check.Report, field string, given bool) {
		if given {
			at.At(field).Forbidden("cannot be set for a windows pod")
		}
	}
	s := v.spec
	forbid(r, "hostPID", s.HostPID)
	forbid(r, "hostIPC", s.HostIPC)
	forbid(r, "hostUsers", s.HostUsers != nil)
	forbid(r, "resources", s.Resources != nil)
	forbid(r, "shareProcessNamespace", s.ShareProcessNamespace != nil)
	if c := s.SecurityContext; c != nil {
		at := r.At("securityContext")
		forbid(at, "appArmorProfile", c.AppArmorProfile != nil)
		forbid(at, "seLinuxOptions", c.SELinuxOptions != nil)
		forbid(at, "seccompProfile", c.SeccompProfile != nil)
		forbid(at, "fsGroup", c.FSGroup != nil)
		forbid(at, "fsGroupChangePolicy", c.FSGroupChangePolicy != nil)
		forbid(at, "seLinuxChangePolicy", c.SELinuxChangePolicy != nil)
		forbid(at, "sysctls", len(c.Sysctls) > 0)
		forbid(at, "runAsUser", c.RunAsUser != nil)
		forbid(at, "runAsGroup", c.RunAsGroup != nil)
		forbid(at, "supplementalGroups", c.SupplementalGroups != nil)
		forbid(at, "supplementalGroupsPolicy", c.SupplementalGroupsPolicy != nil)
	}
	v.eachContainer(r, func(at *check.Report, container *corev1.Container) {
		c := container.SecurityContext
		if c == nil {
			return
		}
		at = at.At("securityContext")
		forbid(at, "appArmorProfile", c.AppArmorProfile != nil)
		forbid(at, "seLinuxOptions", c.SELinuxOptions != nil)
		forbid(at, "seccompProfile", c.SeccompProfile != nil)
		forbid(at, "capabilities", c.Capabilities != nil)
		forbid(at, "readOnlyRootFilesystem", c.ReadOnlyRootFilesystem != nil)
		forbid(at, "privileged", c.Privileged != nil)
		forbid(at, "allowPrivilegeEscalation", c.AllowPrivilegeEscalation != nil)
		forbid(at, "procMount", c.ProcMount != nil)
		forbid(at, "runAsUser", c.RunAsUser != nil)
		forbid(at, "runAsGroup", c.RunAsGroup != nil)
	})
}

// The limits of Windows' own options; the names of users are those of NetUserAdd.
const (
	maxCredentialSpec   = 64 * 1024
	maxRunAsUserDomain  = 255
	netBIOSName         = `^[^.\\/:\*\?"<>|]{1,15}$`
	validUserCharacters = `"/\:;|=,+*?<>@[]`
)

var (
	controlCharacter = regexp.MustCompile(`[[:cntrl:]]+`)
	netBIOSDomain    = regexp.MustCompile(netBIOSName)
	dotsAndSpaces    = regexp.MustCompile(`^[\. ]+$`)
	dnsDomain        = regexp.MustCompile(`^[[:alnum:]]([[:alnum:]\-]{0,61}[[:alnum:]])?(\.[[:alnum:]]([[:alnum:]\-]{0,61}[[:alnum:]])?)*$`)
)

func validateWindowsOptions(r *check.Report, w *corev1.WindowsSecurityContextOptions) {
	if w == nil {
		return
	}
	if n := w.GMSACredentialSpecName; n != nil {
		r.At("gmsaCredentialSpecName").Each(n, validation.IsDNS1123Subdomain(*n))
	}
	if s := w.GMSACredentialSpec; s != nil {
		at := r.At("gmsaCredentialSpec")
		if *s == "" {
			at.Invalid(s, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*s) > maxCredentialSpec {
			at.Invalid(s, "gmsaCredentialSpec size must be under 64 KiB")
		}
	}
	if u := w.RunAsUserName; u != nil {
		validateRunAsUserName(r.At("runAsUserName"), u)
	}
}

func validateRunAsUserName(r *check.Report, name *string) {
	if *name == "" {
		r.Invalid(name, "runAsUserName cannot be an empty string")
		return
	}
	if controlCharacter.MatchString(*name) {
		r.Invalid(name, "runAsUserName cannot contain control characters")
	}
	user := *name
	if domain, rest, found := strings.Cut(*name, `\`); found {
		user = rest
		switch {
		case strings.Contains(rest, `\`):
			r.Invalid(name, "runAsUserName can contain at most one '\\' character")
		case len(domain) > maxRunAsUserDomain:
			r.Invalid(name, "runAsUserName's Domain length must be under 256 characters")
		case !netBIOSDomain.MatchString(domain) && !dnsDomain.MatchString(domain):
			r.Invalid(name, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	switch {
	case user == "":
		r.Invalid(name, "runAsUserName's User cannot be empty")
	case len(user) > 104:
		r.Invalid(name, "runAsUserName's User length must not be longer than 104 characters")
	case dotsAndSpaces.MatchString(user):
		r.Invalid(name, "runAsUserName's User cannot contain only periods or spaces")
	case strings.ContainsAny(user, validUserCharacters):
		r.Invalid(name, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
}

// validateHostProcess: a pod has either host process containers only or none,
// and they are on the host's network (KEP-1981).
func (v *validator) validateHostProcess(r *check.Report) {
	inherited := false
	var podWants *bool
	if c := v.spec.SecurityContext; c != nil && c.WindowsOptions != nil {
		podWants = c.WindowsOptions.HostProcess
		inherited = isTrue(podWants)
	}
	all, some := true, false
	v.eachContainer(r, func(at *check.Report, c *corev1.Container) {
		own := inherited
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			if p := c.SecurityContext.WindowsOptions.HostProcess; p != nil {
				own = *p
				if podWants != nil && *podWants != own {
					at.At("securityContext", "windowsOptions", "hostProcess").Invalid(own,
						"pod hostProcess value must be identical if both are specified, was "+boolText(*podWants))
				}
			}
		}
		all, some = all && own, some || own
	})
	if !some {
		return
	}
	if !all {
		r.Invalid("", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !v.spec.HostNetwork {
		r.At("hostNetwork").Invalid(false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}
