package app

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"skiff.dev/skiff/internal/app/node"
	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/kubelet"
	"skiff.dev/skiff/internal/kubelet/nodestatus"
)

// kubeletTerms makes a node's settings of a kubelet's configuration.
type kubeletTerms struct {
	c        *kubeletv1beta1.KubeletConfiguration
	given    map[string]any // as YAML has it
	settings *node.Settings
	faults   []error
}

// access is who may use the kubelet's API, and how.
func (t *kubeletTerms) access() {
	c, s := t.c, t.settings
	t.bad(is(c.Authentication.Anonymous.Enabled, true), "authentication.anonymous.enabled: the kubelet's API is never open to everybody")
	t.bad(is(c.Authentication.Webhook.Enabled, false), "authentication.webhook.enabled: tokens are always reviewed")
	mode := c.Authorization.Mode
	t.bad(mode != "" && mode != kubeletv1beta1.KubeletAuthorizationModeWebhook, "authorization.mode: only Webhook is supported")
	span := func(field string, to *time.Duration, d time.Duration) {
		t.bad(d < 0, "%s: %v is negative", field, d)
		if d > 0 {
			*to = d
		}
	}
	span("authentication.webhook.cacheTTL", &s.ReviewsLast.Token, c.Authentication.Webhook.CacheTTL.Duration)
	span("authorization.webhook.cacheAuthorizedTTL", &s.ReviewsLast.Allowed, c.Authorization.Webhook.CacheAuthorizedTTL.Duration)
	span("authorization.webhook.cacheUnauthorizedTTL", &s.ReviewsLast.Denied, c.Authorization.Webhook.CacheUnauthorizedTTL.Duration)
	if c.Address != "" {
		_, err := netip.ParseAddr(c.Address)
		t.bad(err != nil, "address: %q is not an IP address", c.Address)
		s.Address = c.Address
	}
	if t.oneOf("tlsMinVersion", c.TLSMinVersion, "VersionTLS12", "VersionTLS13") && c.TLSMinVersion == "VersionTLS13" {
		s.TLS.MinVersion = tls.VersionTLS13
	}
	for _, name := range c.TLSCipherSuites {
		id := cipherSuite(name)
		t.bad(id == 0, "tlsCipherSuites: there is no cipher suite %q", name)
		s.TLS.CipherSuites = append(s.TLS.CipherSuites, id)
	}
	for _, id := range c.TLSCurvePreferences {
		t.bad(id <= 0 || id > 0xffff, "tlsCurvePreferences: %d is not the number of a curve", id)
		s.TLS.Curves = append(s.TLS.Curves, tls.CurveID(id)) //nolint:gosec // checked
	}
	if is(c.EnableSystemLogHandler, true) {
		s.SystemLogs = "/var/log"
	}
}

func cipherSuite(name string) uint16 {
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if suite.Name == name {
			return suite.ID
		}
	}
	return 0
}

// pods is what pods are given.
func (t *kubeletTerms) pods() {
	c, s := t.c, t.settings
	if c.ResolverConfig != nil {
		s.ResolvConf = *c.ResolverConfig
	}
	for _, address := range c.ClusterDNS {
		_, err := netip.ParseAddr(address)
		t.bad(err != nil, "clusterDNS: %q is not an IP address", address)
	}
	s.DNSServers, s.PodLogs = c.ClusterDNS, c.PodLogsDir
	t.bad(c.PodLogsDir != "" && !strings.HasPrefix(c.PodLogsDir, "/"), "podLogsDir: %q is not an absolute path", c.PodLogsDir)
	for _, pattern := range c.AllowedUnsafeSysctls {
		t.bad(!kubelet.Namespaced(pattern), "allowedUnsafeSysctls: %q is not of a pod's own namespaces", pattern)
	}
	s.UnsafeSysctls = c.AllowedUnsafeSysctls
	s.SeccompUnconfined = is(c.SeccompDefault, false)
	s.SingleProcessOOM = is(c.SingleProcessOOMKill, true)
	s.ProviderID = c.ProviderID
	same := c.ImageServiceEndpoint == "" || strings.TrimPrefix(c.ImageServiceEndpoint, "unix://") == strings.TrimPrefix(c.ContainerRuntimeEndpoint, "unix://")
	t.bad(!same, "imageServiceEndpoint: images are asked of the container runtime; leave it out")
}

// limits are those of pods and their logs.
func (t *kubeletTerms) limits() {
	c, s := t.c, t.settings
	if n := c.PodPidsLimit; n != nil && *n != -1 {
		t.bad(*n <= 0, "podPidsLimit: %d is not a number of processes, nor -1 for any number", *n)
		s.PIDLimit = *n
	}
	if n := c.NodeLeaseDurationSeconds; n != 0 {
		t.bad(n < 0, "nodeLeaseDurationSeconds: %d must be greater than 0", n)
		s.LeaseSeconds = n
	}
	if n := c.NodeStatusMaxImages; n != nil {
		t.bad(*n < -1, "nodeStatusMaxImages: %d must be greater than -2", *n)
		s.MaxImages = int(*n)
	}
	if text := c.ContainerLogMaxSize; text != "" {
		q, err := resource.ParseQuantity(text)
		t.bad(err != nil || q.Sign() <= 0, "containerLogMaxSize: %q is not a size such as 10Mi", text)
		s.Logs.MaxBytes = q.Value()
	}
	if n := c.ContainerLogMaxFiles; n != nil {
		t.bad(*n < 2, "containerLogMaxFiles: %d must be greater than 1", *n)
		s.Logs.MaxFiles = int(*n)
	}
	if d := c.ContainerLogMonitorInterval; d != nil && d.Duration != 0 {
		t.bad(d.Duration < 3*time.Second, "containerLogMonitorInterval: %v must be 3s or more", d.Duration)
		s.Logs.Every = d.Duration
	}
}

// maxPods is how many pods may run on this machine.
func (t *kubeletTerms) maxPods(usual int) int {
	n := usual
	if t.c.MaxPods != 0 {
		n = int(t.c.MaxPods)
	}
	t.bad(t.c.PodsPerCore < 0, "podsPerCore: %d is negative", t.c.PodsPerCore)
	if per := int(t.c.PodsPerCore); per > 0 {
		n = min(n, per*runtime.NumCPU())
	}
	return n
}

// images is how they are pulled and removed.
func (t *kubeletTerms) images() {
	c, p := t.c, &t.settings.Pulls
	serial := is(c.SerializeImagePulls, true)
	if serial {
		p.Parallel = 1
	}
	if n := c.MaxParallelImagePulls; n != nil {
		t.bad(*n < 1, "maxParallelImagePulls: %d must be 1 or more", *n)
		t.bad(serial && *n > 1, "maxParallelImagePulls: %d while serializeImagePulls is true", *n)
		p.Parallel = int(*n)
	}
	percent := func(field string, to *int, n *int32) {
		if n != nil {
			t.bad(*n < 0 || *n > 100, "%s: %d is not a percentage", field, *n)
			*to = int(*n)
		}
	}
	percent("imageGCHighThresholdPercent", &p.HighPercent, c.ImageGCHighThresholdPercent)
	percent("imageGCLowThresholdPercent", &p.LowPercent, c.ImageGCLowThresholdPercent)
	t.bad(p.LowPercent >= p.HighPercent, "imageGCLowThresholdPercent: %d must be less than imageGCHighThresholdPercent, %d", p.LowPercent, p.HighPercent)
	least, most := c.ImageMinimumGCAge.Duration, c.ImageMaximumGCAge.Duration
	t.bad(least < 0, "imageMinimumGCAge: %v is negative", least)
	if least > 0 {
		p.MinAge = least
	}
	t.bad(most < 0 || most > 0 && most <= p.MinAge, "imageMaximumGCAge: %v must be greater than imageMinimumGCAge, %v", most, p.MinAge)
	p.MaxAge = most
}

// The thresholds that there are, and those that hold where none is given.
var (
	evictionSignals = []string{
		"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree",
		"containerfs.available", "containerfs.inodesFree", "pid.available",
	}
	usualEviction = map[string]string{
		"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%",
	}
)

// eviction takes of the thresholds what they put out of reach for pods'
// requests, as nothing is evicted yet, and of the reservations all.
func (t *kubeletTerms) eviction() {
	c, r := t.c, &t.settings.Reserve
	r.System = t.reserved("systemReserved", c.SystemReserved)
	r.Kube = t.reserved("kubeReserved", c.KubeReserved)
	if len(c.EvictionHard) == 0 {
		return
	}
	limits := map[string]string{}
	if is(c.MergeDefaultEvictionSettings, true) {
		for signal, text := range usualEviction {
			limits[signal] = text
		}
	}
	for signal, text := range c.EvictionHard {
		t.oneOf("evictionHard", signal, evictionSignals...)
		limits[signal] = text
	}
	some := false
	for signal, text := range limits {
		threshold, ok := parseThreshold(text)
		t.bad(!ok, "evictionHard: %s: %q is neither an amount such as 100Mi nor a percentage", signal, text)
		some = some || threshold != nodestatus.Threshold{}
	}
	r.Memory, _ = parseThreshold(limits["memory.available"])
	r.Storage, _ = parseThreshold(limits["nodefs.available"])
	if some {
		slog.Warn("pods are not evicted when the node is short of something; evictionHard only lessens what they may request", "evictionHard", c.EvictionHard)
	}
}

// parseThreshold reads an amount or a percentage; 0%, 100% and nothing at all
// are no threshold.
func parseThreshold(text string) (t nodestatus.Threshold, ok bool) {
	if text == "" {
		return t, true
	}
	if number, isPercent := strings.CutSuffix(text, "%"); isPercent {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || p < 0 || p > 100 {
			return t, false
		}
		if p < 100 {
			t.Percent = p
		}
		return t, true
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() < 0 {
		return t, false
	}
	t.Amount = q
	return t, true
}

// reserved reads what of the node is not for pods.
func (t *kubeletTerms) reserved(field string, amounts map[string]string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for name, text := range amounts {
		if name == "pid" {
			t.bad(true, "%s: processes are not reserved; leave pid out, and see podPidsLimit", field)
			continue
		}
		if !t.oneOf(field, name, "cpu", "memory", "ephemeral-storage") {
			continue
		}
		q, err := resource.ParseQuantity(text)
		t.bad(err != nil || q.Sign() < 0, "%s: %s: %q is not an amount", field, name, text)
		list[corev1.ResourceName(name)] = q
	}
	return list
}

// host is what the configuration wants of the machine.
func (t *kubeletTerms) host() {
	c := t.c
	swap := hasSwap()
	t.bad(is(c.FailSwapOn, true) && swap, "failSwapOn: there is swap on this machine; switch it off, or set failSwapOn to false")
	if t.oneOf("memorySwap.swapBehavior", c.MemorySwap.SwapBehavior, "NoSwap", "LimitedSwap") {
		t.bad(c.MemorySwap.SwapBehavior != "" && swap, "memorySwap.swapBehavior: swap is the kernel's to give and is not limited; switch it off on this machine, or leave this out")
	}
	if c.FailCgroupV1 == nil && c.SingleProcessOOMKill == nil {
		return
	}
	version, err := cgroup.Detect()
	if err != nil {
		t.bad(true, "failCgroupV1: %w", err)
		return
	}
	t.bad(is(c.FailCgroupV1, true) && version == cgroup.V1, "failCgroupV1: control groups are of version 1 on this machine; set failCgroupV1 to false to run here")
	t.bad(is(c.SingleProcessOOMKill, false) && version == cgroup.V1, "singleProcessOOMKill: with control groups of version 1 it can only be true")
}

func hasSwap() bool {
	var info unix.Sysinfo_t
	return unix.Sysinfo(&info) == nil && info.Totalswap > 0
}
