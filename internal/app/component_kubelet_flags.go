package app

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// A kubeletFlag says what a field of KubeletConfiguration says, and wins over it.
type kubeletFlag struct {
	field        string // with dots where it is within another
	usage, usual string
}

// kubeletFlags are upstream's flags for fields; those that all components have
// are not among them.
var kubeletFlags = map[string]kubeletFlag{
	"address":                                      {"address", "address on which the kubelet's API is served (default: all)", ""},
	"allowed-unsafe-sysctls":                       {"allowedUnsafeSysctls", "parameters of the kernel that pods may set besides the safe ones; a * at the end stands for anything", ""},
	"anonymous-auth":                               {field: "authentication.anonymous.enabled"},
	"authentication-token-webhook":                 {field: "authentication.webhook.enabled"},
	"authentication-token-webhook-cache-ttl":       {"authentication.webhook.cacheTTL", "how long it is known whose a token is", "2m0s"},
	"authorization-mode":                           {"authorization.mode", "who may use the kubelet's API is asked of the API server", "Webhook"},
	"authorization-webhook-cache-authorized-ttl":   {"authorization.webhook.cacheAuthorizedTTL", "how long a yes holds", "5m0s"},
	"authorization-webhook-cache-unauthorized-ttl": {"authorization.webhook.cacheUnauthorizedTTL", "how long a no holds", "30s"},
	"cgroup-driver":                                {"cgroupDriver", "control groups are written directly", "cgroupfs"},
	"cgroup-root":                                  {field: "cgroupRoot"},
	"cgroups-per-qos":                              {field: "cgroupsPerQOS"},
	"client-ca-file":                               {"authentication.x509.clientCAFile", "CAs of those who use the kubelet's API (default: the kubeconfig's)", ""},
	"cluster-dns":                                  {"clusterDNS", "addresses of the cluster's DNS", ""},
	"cluster-domain":                               {"clusterDomain", "domain of the cluster's DNS", "cluster.local"},
	"container-log-max-files":                      {"containerLogMaxFiles", "how many log files a container may have", "5"},
	"container-log-max-size":                       {"containerLogMaxSize", "size at which a log file is followed by another", "10Mi"},
	"container-runtime-endpoint":                   {"containerRuntimeEndpoint", "CRI socket of the container runtime (default: the one inside skiff)", ""},
	"cpu-cfs-quota":                                {field: "cpuCFSQuota"},
	"cpu-cfs-quota-period":                         {field: "cpuCFSQuotaPeriod"},
	"cpu-manager-policy":                           {field: "cpuManagerPolicy"},
	"cpu-manager-policy-options":                   {field: "cpuManagerPolicyOptions"},
	"cpu-manager-reconcile-period":                 {field: "cpuManagerReconcilePeriod"},
	"enable-controller-attach-detach":              {field: "enableControllerAttachDetach"},
	"enable-debugging-handlers":                    {field: "enableDebuggingHandlers"},
	"enable-server":                                {field: "enableServer"},
	"enforce-node-allocatable":                     {field: "enforceNodeAllocatable"},
	"event-burst":                                  {field: "eventBurst"},
	"event-qps":                                    {field: "eventRecordQPS"},
	"eviction-hard":                                {"evictionHard", "what is out of reach for pods' requests, such as memory.available<100Mi; nothing is evicted yet", ""},
	"eviction-max-pod-grace-period":                {field: "evictionMaxPodGracePeriod"},
	"eviction-minimum-reclaim":                     {field: "evictionMinimumReclaim"},
	"eviction-pressure-transition-period":          {field: "evictionPressureTransitionPeriod"},
	"eviction-soft":                                {field: "evictionSoft"},
	"eviction-soft-grace-period":                   {field: "evictionSoftGracePeriod"},
	"fail-cgroupv1":                                {"failCgroupV1", "refuse to run where control groups are of version 1", ""},
	"fail-swap-on":                                 {"failSwapOn", "refuse to run where there is swap", ""},
	"file-check-frequency":                         {field: "fileCheckFrequency"},
	"hairpin-mode":                                 {field: "hairpinMode"},
	"healthz-bind-address":                         {"healthzBindAddress", "address on which health is served over HTTP", "127.0.0.1"},
	"healthz-port":                                 {"healthzPort", "port on which health is served; 0 for none", "10248"},
	"http-check-frequency":                         {field: "httpCheckFrequency"},
	"image-gc-high-threshold":                      {"imageGCHighThresholdPercent", "percentage of the disk in use at which unused images are removed; 100 for never", "85"},
	"image-gc-low-threshold":                       {"imageGCLowThresholdPercent", "percentage down to which they are removed", "80"},
	"image-service-endpoint":                       {"imageServiceEndpoint", "it must be that of --container-runtime-endpoint", ""},
	"kernel-memcg-notification":                    {field: "kernelMemcgNotification"},
	"kube-reserved":                                {"kubeReserved", "what of the node is for Kubernetes' own programs, such as cpu=200m,memory=500Mi", ""},
	"kube-reserved-cgroup":                         {field: "kubeReservedCgroup"},
	"kubelet-cgroups":                              {field: "kubeletCgroups"},
	"local-storage-capacity-isolation":             {field: "localStorageCapacityIsolation"},
	"make-iptables-util-chains":                    {field: "makeIPTablesUtilChains"},
	"manifest-url":                                 {field: "staticPodURL"},
	"max-open-files":                               {field: "maxOpenFiles"},
	"max-pods":                                     {"maxPods", "how many pods may run on this node", "110"},
	"memory-manager-policy":                        {field: "memoryManagerPolicy"},
	"minimum-image-ttl-duration":                   {"imageMinimumGCAge", "age under which images are not removed", "2m0s"},
	"node-status-max-images":                       {"nodeStatusMaxImages", "how many images the node's status lists; -1 for all", "50"},
	"node-status-update-frequency":                 {field: "nodeStatusUpdateFrequency"},
	"oom-score-adj":                                {"oomScoreAdj", "oom_score_adj of the kubelet's process (default: the one it is started with)", ""},
	"pod-cidr":                                     {field: "podCIDR"},
	"pod-manifest-path":                            {"staticPodPath", "directory of static pods", ""},
	"pod-max-pids":                                 {"podPidsLimit", "how many processes a pod may have; -1 for any number", "-1"},
	"pods-per-core":                                {"podsPerCore", "how many pods may run on this node for each of its processors; 0 for any number", ""},
	"port":                                         {"port", "port of the kubelet's API", "10250"},
	"protect-kernel-defaults":                      {field: "protectKernelDefaults"},
	"provider-id":                                  {"providerID", "what the machine's provider calls it", ""},
	"qos-reserved":                                 {field: "qosReserved"},
	"read-only-port":                               {field: "readOnlyPort"},
	"register-node":                                {field: "registerNode"},
	"registry-burst":                               {field: "registryBurst"},
	"registry-qps":                                 {field: "registryPullQPS"},
	"reserved-cpus":                                {field: "reservedSystemCPUs"},
	"resolv-conf":                                  {"resolvConf", "resolver configuration of the host; empty for none", "/etc/resolv.conf"},
	"rotate-certificates":                          {"rotateCertificates", "renew the client certificate through the cluster; on whenever --bootstrap-kubeconfig is used", ""},
	"rotate-server-certificates":                   {"serverTLSBootstrap", "get the serving certificate from the cluster", ""},
	"runonce":                                      {field: "runOnce"},
	"runtime-request-timeout":                      {field: "runtimeRequestTimeout"},
	"seccomp-default":                              {"seccompDefault", "pods that ask for no seccomp profile have the runtime's", "true"},
	"serialize-image-pulls":                        {"serializeImagePulls", "pull one image at a time", ""},
	"streaming-connection-idle-timeout":            {field: "streamingConnectionIdleTimeout"},
	"sync-frequency":                               {field: "syncFrequency"},
	"system-cgroups":                               {field: "systemCgroups"},
	"system-reserved":                              {"systemReserved", "what of the node is for the system's programs, such as cpu=200m,memory=500Mi", ""},
	"system-reserved-cgroup":                       {field: "systemReservedCgroup"},
	"tls-cert-file":                                {"tlsCertFile", "serving certificate (default: one from the cluster, or one made for this run)", ""},
	"tls-cipher-suites":                            {"tlsCipherSuites", "cipher suites of TLS 1.2, by Go's names (default: Go's choice)", ""},
	"tls-min-version":                              {"tlsMinVersion", "VersionTLS12 or VersionTLS13", "VersionTLS12"},
	"tls-private-key-file":                         {"tlsPrivateKeyFile", "key of --tls-cert-file", ""},
	"topology-manager-policy":                      {field: "topologyManagerPolicy"},
	"topology-manager-policy-options":              {field: "topologyManagerPolicyOptions"},
	"topology-manager-scope":                       {field: "topologyManagerScope"},
	"volume-plugin-dir":                            {field: "volumePluginDir"},
	"volume-stats-agg-period":                      {field: "volumeStatsAggPeriod"},
}

// fieldFlags defines the flags for fields and returns what they are set to.
func fieldFlags(f *pflag.FlagSet) map[string]*fieldValue {
	values := map[string]*fieldValue{}
	for name, flag := range kubeletFlags {
		v := &fieldValue{kind: fieldType(reflect.TypeFor[kubeletv1beta1.KubeletConfiguration](), flag.field)}
		values[name] = v
		f.Var(v, name, flag.usage)
		added := f.Lookup(name)
		added.DefValue = flag.usual
		if flag.usage == "" {
			added.Usage = "as " + flag.field + " of --config"
		}
		if v.kind.Kind() == reflect.Bool {
			added.NoOptDefVal = "true"
		}
	}
	return values
}

// fieldType is the type of a field by its name in JSON, without pointers; nil if
// there is none.
func fieldType(t reflect.Type, path string) reflect.Type {
	name, rest, within := strings.Cut(path, ".")
	for i := range t.NumField() {
		field := t.Field(i)
		if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag != name {
			continue
		}
		at := field.Type
		if at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		if within {
			return fieldType(at, rest)
		}
		return at
	}
	return nil
}

// fieldValue is what a flag sets a field to. It implements pflag.Value.
type fieldValue struct {
	kind  reflect.Type
	value any // as YAML would have it; nil if the flag was not given
}

func (v *fieldValue) String() string {
	if v.value == nil {
		return ""
	}
	return fmt.Sprint(v.value)
}

// Type is shown in the help.
func (v *fieldValue) Type() string {
	switch {
	case v.kind == reflect.TypeFor[metav1.Duration]():
		return "duration"
	case v.kind.Kind() == reflect.Slice:
		return "strings"
	case v.kind.Kind() == reflect.Map:
		return "mapStringString"
	}
	return v.kind.Kind().String()
}

// Set reads the flag; lists and maps grow when it is given again.
func (v *fieldValue) Set(text string) error {
	if v.kind == reflect.TypeFor[metav1.Duration]() {
		_, err := time.ParseDuration(text)
		v.value = text
		return err
	}
	switch v.kind.Kind() {
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		v.value = b
		return err
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.kind.Bits())
		v.value = float64(n) // as all numbers of YAML
		return err
	case reflect.Slice:
		list, _ := v.value.([]any)
		for _, s := range strings.Split(text, ",") {
			if s != "" {
				list = append(list, s)
			}
		}
		v.value = list
		return nil
	case reflect.Map:
		return v.pairs(text)
	}
	if v.kind == reflect.TypeFor[string]() || v.kind.Kind() == reflect.String {
		v.value = text
		return nil
	}
	return fmt.Errorf("a value of type %s", v.kind)
}

// pairs reads key=value or, as thresholds are written, key<value.
func (v *fieldValue) pairs(text string) error {
	m, _ := v.value.(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	for _, pair := range strings.Split(text, ",") {
		if pair == "" {
			continue
		}
		i := strings.IndexAny(pair, "=<")
		if i <= 0 {
			return fmt.Errorf("%q is not key=value", pair)
		}
		m[pair[:i]] = pair[i+1:]
	}
	v.value = m
	return nil
}

// setByFlags sets the fields of the flags that were given, and returns their names
// by field.
func setByFlags(f *pflag.FlagSet, flags map[string]*fieldValue, given map[string]any) map[string]string {
	by := map[string]string{}
	for name, v := range flags {
		if !f.Changed(name) {
			continue
		}
		path := strings.Split(kubeletFlags[name].field, ".")
		by[path[0]] = "--" + name
		at := given
		for _, step := range path[:len(path)-1] {
			inner, ok := at[step].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[step] = inner
			}
			at = inner
		}
		at[path[len(path)-1]] = v.value
	}
	return by
}

// patched returns what a later part of the configuration makes of the earlier:
// maps are joined, all else is replaced, and null takes away (RFC 7396).
func patched(have, patch map[string]any) map[string]any {
	for key, value := range patch {
		inner, isMap := value.(map[string]any)
		switch old, wasMap := have[key].(map[string]any); {
		case value == nil:
			delete(have, key)
		case isMap && wasMap:
			have[key] = patched(old, inner)
		default:
			have[key] = value
		}
	}
	return have
}
