package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

const (
	noHandler    = "must specify a handler type"
	moreHandlers = "may not specify more than 1 handler type"
)

func (v *validator) validateProbes(r *check.Report, c *corev1.Container) {
	if p := c.LivenessProbe; p != nil {
		at := r.At("livenessProbe")
		v.validateProbe(at, p)
		onceIsEnough(at, p)
	}
	if p := c.ReadinessProbe; p != nil {
		at := r.At("readinessProbe")
		v.validateProbe(at, p)
		if p.TerminationGracePeriodSeconds != nil {
			at.At("terminationGracePeriodSeconds").Invalid(*p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
		}
	}
	if p := c.StartupProbe; p != nil {
		at := r.At("startupProbe")
		v.validateProbe(at, p)
		onceIsEnough(at, p)
	}
}

// onceIsEnough: a container that need only be seen alive cannot ask for more
// than one success.
func onceIsEnough(r *check.Report, p *corev1.Probe) {
	if p.SuccessThreshold != 1 {
		r.At("successThreshold").Invalid(p.SuccessThreshold, "must be 1")
	}
}

func (v *validator) validateProbe(r *check.Report, p *corev1.Probe) {
	oneHandler(r, noHandler, moreHandlers, []string{"exec", "httpGet", "tcpSocket", "grpc"},
		[]bool{p.Exec != nil, p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil})
	validateActions(r, p.Exec, p.HTTPGet, p.TCPSocket)
	if p.GRPC != nil {
		r.At("grpc", "port").Each(p.GRPC.Port, validation.IsValidPortNum(int(p.GRPC.Port)))
	}
	r.At("initialDelaySeconds").NonNegative(int64(p.InitialDelaySeconds))
	r.At("timeoutSeconds").NonNegative(int64(p.TimeoutSeconds))
	r.At("periodSeconds").NonNegative(int64(p.PeriodSeconds))
	r.At("successThreshold").NonNegative(int64(p.SuccessThreshold))
	r.At("failureThreshold").NonNegative(int64(p.FailureThreshold))
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		r.At("terminationGracePeriodSeconds").Invalid(*g, "must be greater than 0")
	}
}

func (v *validator) validateLifecycle(r *check.Report, l *corev1.Lifecycle) {
	if l == nil {
		return
	}
	if l.PostStart != nil {
		v.validateHook(r.At("postStart"), l.PostStart)
	}
	if l.PreStop != nil {
		v.validateHook(r.At("preStop"), l.PreStop)
	}
	if l.StopSignal != nil {
		v.validateStopSignal(r.At("stopSignal"), *l.StopSignal)
	}
}

func (v *validator) validateHook(r *check.Report, h *corev1.LifecycleHandler) {
	oneHandler(r, noHandler, moreHandlers, []string{"exec", "httpGet", "tcpSocket", "sleep"},
		[]bool{h.Exec != nil, h.HTTPGet != nil, h.TCPSocket != nil, h.Sleep != nil})
	validateActions(r, h.Exec, h.HTTPGet, h.TCPSocket)
	if h.Sleep == nil {
		return
	}
	var grace int64
	if g := v.spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	if h.Sleep.Seconds < 0 || h.Sleep.Seconds > grace {
		r.At("sleep").Invalid(h.Sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", grace))
	}
}

func validateActions(r *check.Report, exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction) {
	if exec != nil && len(exec.Command) == 0 {
		r.At("exec", "command").Required("")
	}
	if get != nil {
		validateHTTPGet(r.At("httpGet"), get)
	}
	if tcp != nil {
		validatePortNumOrName(r.At("tcpSocket", "port"), tcp.Port)
	}
}

func validateHTTPGet(r *check.Report, g *corev1.HTTPGetAction) {
	r.At("path").RequiredString(g.Path)
	validatePortNumOrName(r.At("port"), g.Port)
	check.OneOf(r.At("scheme"), g.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, h := range g.HTTPHeaders {
		r.At("httpHeaders").Each(h.Name, validation.IsHTTPHeaderName(h.Name))
	}
}

func validatePortNumOrName(r *check.Report, port intstr.IntOrString) {
	switch port.Type {
	case intstr.Int:
		r.Each(port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	case intstr.String:
		r.Each(port.StrVal, validation.IsValidPortName(port.StrVal))
	default:
		r.Invalid(port, fmt.Sprintf("unknown type: %v", port.Type))
	}
}

// linuxSignals are the signals that a container of a Linux pod may be stopped
// with (KEP-4960): the named ones and the range of real-time signals.
var linuxSignals = buildLinuxSignals()

func buildLinuxSignals() []corev1.Signal {
	signals := []corev1.Signal{
		corev1.SIGABRT, corev1.SIGALRM, corev1.SIGBUS, corev1.SIGCHLD, corev1.SIGCLD, corev1.SIGCONT, corev1.SIGFPE,
		corev1.SIGHUP, corev1.SIGILL, corev1.SIGINT, corev1.SIGIO, corev1.SIGIOT, corev1.SIGKILL, corev1.SIGPIPE,
		corev1.SIGPOLL, corev1.SIGPROF, corev1.SIGPWR, corev1.SIGQUIT, corev1.SIGSEGV, corev1.SIGSTKFLT, corev1.SIGSTOP,
		corev1.SIGSYS, corev1.SIGTERM, corev1.SIGTRAP, corev1.SIGTSTP, corev1.SIGTTIN, corev1.SIGTTOU, corev1.SIGURG,
		corev1.SIGUSR1, corev1.SIGUSR2, corev1.SIGVTALRM, corev1.SIGWINCH, corev1.SIGXCPU, corev1.SIGXFSZ,
		corev1.SIGRTMIN, corev1.SIGRTMAX,
	}
	for n := 1; n <= 15; n++ {
		signals = append(signals, corev1.Signal(fmt.Sprintf("%s+%d", corev1.SIGRTMIN, n)))
	}
	for n := 1; n <= 14; n++ {
		signals = append(signals, corev1.Signal(fmt.Sprintf("%s-%d", corev1.SIGRTMAX, n)))
	}
	return signals
}

func (v *validator) validateStopSignal(r *check.Report, s corev1.Signal) {
	if v.spec.OS == nil {
		r.Forbidden("may not be set for containers with empty `spec.os.name`")
		return
	}
	switch v.spec.OS.Name {
	case corev1.Windows:
		check.OneOf(r, s, corev1.SIGTERM, corev1.SIGKILL)
	case corev1.Linux:
		check.OneOf(r, s, linuxSignals...)
	}
}
