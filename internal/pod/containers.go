package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

func (v *validator) validateContainers(spec *check.Report) {
	r := spec.At("containers")
	if len(v.spec.Containers) == 0 {
		r.Required("")
		return
	}
	for i := range v.spec.Containers {
		c, at := &v.spec.Containers[i], r.Index(i)
		v.validateName(at.At("name"), c.Name)
		v.validateContainer(at, c)
		v.validateLifecycle(at.At("lifecycle"), c.Lifecycle)
		v.validateProbes(at, c)
		v.validateRestart(at, c)
	}
	validatePortConflicts(r, v.spec.Containers)
}

// initOnly are the fields that an init container has only where it runs on.
const initOnly = "may not be set for init containers without restartPolicy=Always"

func (v *validator) validateInitContainers(r *check.Report) {
	for i := range v.spec.InitContainers {
		c, at := &v.spec.InitContainers[i], r.Index(i)
		v.validateName(at.At("name"), c.Name)
		v.validateContainer(at, c)
		v.validateRestart(at, c)
		validatePortConflicts(r, v.spec.InitContainers[i:i+1])
		if IsSidecar(c) {
			v.validateLifecycle(at.At("lifecycle"), c.Lifecycle)
			v.validateProbes(at, c)
			continue
		}
		for _, f := range []struct {
			name  string
			given bool
		}{
			{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			if f.given {
				at.At(f.name).Forbidden(initOnly)
			}
		}
	}
}

func (v *validator) validateEphemeralContainers(r *check.Report) {
	targets := map[string]bool{}
	for i := range v.spec.Containers {
		targets[v.spec.Containers[i].Name] = true
	}
	for i := range v.spec.InitContainers {
		if IsSidecar(&v.spec.InitContainers[i]) {
			targets[v.spec.InitContainers[i].Name] = true
		}
	}
	for i := range v.spec.EphemeralContainers {
		e, at := &v.spec.EphemeralContainers[i], r.Index(i)
		c := (*corev1.Container)(&e.EphemeralContainerCommon)
		v.validateName(at.At("name"), c.Name)
		v.validateContainer(at, c)
		if t := e.TargetContainerName; t != "" && !targets[t] {
			at.At("targetContainerName").NotFound(t)
		}
		validateEphemeralFields(at, c)
	}
}

// validateEphemeralFields forbids what a container that is put into a running
// pod cannot have.
func validateEphemeralFields(r *check.Report, c *corev1.Container) {
	const text = "cannot be set for an Ephemeral Container"
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"ports", len(c.Ports) > 0},
		{"resources", len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0},
		{"resizePolicy", len(c.ResizePolicy) > 0},
		{"restartPolicy", c.RestartPolicy != nil},
		{"restartPolicyRules", len(c.RestartPolicyRules) > 0},
		{"livenessProbe", c.LivenessProbe != nil},
		{"readinessProbe", c.ReadinessProbe != nil},
		{"startupProbe", c.StartupProbe != nil},
		{"lifecycle", c.Lifecycle != nil},
	} {
		if f.given {
			r.At(f.name).Forbidden(text)
		}
	}
	for i, m := range c.VolumeMounts {
		at := r.At("volumeMounts").Index(i)
		if m.SubPath != "" {
			at.At("subPath").Forbidden(text)
		}
		if m.SubPathExpr != "" {
			at.At("subPathExpr").Forbidden(text)
		}
	}
}

// validateName checks a container's name, which is unique in the pod.
func (v *validator) validateName(r *check.Report, name string) {
	if !r.RequiredString(name) {
		return
	}
	r.Each(name, validation.IsDNS1123Label(name))
	if v.names[name] {
		r.Duplicate(name)
	}
	v.names[name] = true
}

// validateContainer checks what containers of every kind have in common.
func (v *validator) validateContainer(r *check.Report, c *corev1.Container) {
	r.At("image").RequiredString(c.Image)
	check.RequiredOneOf(r.At("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	v.validatePorts(r.At("ports"), c.Ports)
	v.validateEnv(r.At("env"), c.Env)
	validateEnvFrom(r.At("envFrom"), c.EnvFrom)
	v.validateMounts(r, c)
	check.RequiredOneOf(r.At("imagePullPolicy"), c.ImagePullPolicy,
		corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	v.validateContainerResources(r.At("resources"), &c.Resources)
	v.validateResizePolicy(r.At("resizePolicy"), c)
	v.validateContainerSecurity(r.At("securityContext"), c.SecurityContext)
}

func (v *validator) validatePorts(r *check.Report, ports []corev1.ContainerPort) {
	names := map[string]bool{}
	for i := range ports {
		p, at := &ports[i], r.Index(i)
		if p.Name != "" {
			if faults := validation.IsValidPortName(p.Name); len(faults) > 0 {
				at.At("name").Each(p.Name, faults)
			} else if names[p.Name] {
				at.At("name").Duplicate(p.Name)
			}
			names[p.Name] = true
		}
		if p.ContainerPort == 0 {
			at.At("containerPort").Required("")
		} else {
			at.At("containerPort").Each(p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))
		}
		if p.HostPort != 0 {
			at.At("hostPort").Each(p.HostPort, validation.IsValidPortNum(int(p.HostPort)))
		}
		if p.HostIP != "" {
			at.At("hostIP").IP(p.HostIP)
		}
		check.RequiredOneOf(at.At("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	}
}

// validatePortConflicts reports host ports that two containers want.
func validatePortConflicts(r *check.Report, containers []corev1.Container) {
	taken := map[string]bool{}
	for i := range containers {
		for j, p := range containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken[key] {
				r.Index(i).At("ports").Index(j).At("hostPort").Duplicate(key)
			}
			taken[key] = true
		}
	}
}

// maxRestartRules and maxExitCodes bound a container's restart rules (KEP-5307).
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func (v *validator) validateRestart(r *check.Report, c *corev1.Container) {
	if c.RestartPolicy != nil {
		check.OneOf(r.At("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways,
			corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	}
	rules := r.At("restartPolicyRules")
	if len(c.RestartPolicyRules) > 0 && c.RestartPolicy == nil {
		r.At("restartPolicy").Required("must specify restartPolicy when restart rules are used")
	}
	if n := len(c.RestartPolicyRules); n > maxRestartRules {
		rules.TooMany(n, maxRestartRules)
	}
	for i, rule := range c.RestartPolicyRules {
		at := rules.Index(i)
		check.RequiredOneOf(at.At("action"), rule.Action,
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if rule.ExitCodes == nil {
			at.At("exitCodes").Required("must be specified")
			continue
		}
		codes := at.At("exitCodes")
		check.RequiredOneOf(codes.At("operator"), rule.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(rule.ExitCodes.Values); n > maxExitCodes {
			codes.At("values").TooMany(n, maxExitCodes)
		}
		seen := map[int32]bool{}
		for j, code := range rule.ExitCodes.Values {
			if seen[code] {
				codes.At("values").Index(j).Duplicate(code)
			}
			seen[code] = true
		}
	}
}

func (v *validator) validateResizePolicy(r *check.Report, c *corev1.Container) {
	seen := map[corev1.ResourceName]bool{}
	for i, p := range c.ResizePolicy {
		at := r.Index(i)
		if seen[p.ResourceName] {
			at.Duplicate(p.ResourceName)
		}
		seen[p.ResourceName] = true
		check.RequiredOneOf(at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		check.RequiredOneOf(at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if v.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			at.Invalid(p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'")
		}
	}
}
