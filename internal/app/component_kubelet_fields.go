package app

// The reasons that several fields share.
const (
	reasonRules       = "no iptables rules are made"
	reasonProfiling   = "there is no profiling endpoint"
	reasonPulls       = "pulls are limited by how many there are at a time, see maxParallelImagePulls"
	reasonSoft        = "pods are not evicted when the node is short of something; leave it out"
	reasonShutdown    = "graceful node shutdown is not served yet; leave it out"
	reasonNUMA        = "the CPU, memory and topology managers are not served yet; leave it out"
	reasonOwnGroups   = "the kubelet stays in the control groups it was started in; leave it out"
	reasonStaticFiles = "static pods are read from staticPodPath only; leave it out"
)

// kubeletFields are all fields of kubelet.config.k8s.io/v1beta1
// KubeletConfiguration.
var kubeletFields = map[string]configField{
	"apiVersion": {}, "kind": {}, "staticPodPath": {}, "podLogsDir": {}, "address": {}, "port": {}, "tlsCertFile": {},
	"tlsPrivateKeyFile": {}, "tlsCipherSuites": {}, "tlsCurvePreferences": {}, "tlsMinVersion": {}, "rotateCertificates": {},
	"serverTLSBootstrap": {}, "authentication": {}, "authorization": {}, "healthzPort": {}, "healthzBindAddress": {}, "oomScoreAdj": {},
	"clusterDomain": {}, "clusterDNS": {}, "nodeLeaseDurationSeconds": {}, "imageMinimumGCAge": {}, "imageMaximumGCAge": {},
	"imageGCHighThresholdPercent": {}, "imageGCLowThresholdPercent": {}, "maxPods": {}, "podsPerCore": {}, "podPidsLimit": {}, "resolvConf": {},
	"nodeStatusMaxImages": {}, "serializeImagePulls": {}, "maxParallelImagePulls": {}, "evictionHard": {}, "mergeDefaultEvictionSettings": {},
	"failSwapOn": {}, "memorySwap": {}, "containerLogMaxSize": {}, "containerLogMaxFiles": {}, "containerLogMonitorInterval": {},
	"systemReserved": {}, "kubeReserved": {}, "allowedUnsafeSysctls": {}, "providerID": {}, "enableSystemLogHandler": {}, "seccompDefault": {},
	"registerWithTaints": {}, "containerRuntimeEndpoint": {}, "imageServiceEndpoint": {}, "failCgroupV1": {}, "singleProcessOOMKill": {},

	"syncFrequency": inVain(reasonPush), "fileCheckFrequency": inVain(reasonPush), "httpCheckFrequency": inVain(reasonPush),
	"nodeStatusUpdateFrequency": inVain(reasonPush), "nodeStatusReportFrequency": inVain(reasonPush, "5m0s", "5m"),
	"cpuManagerReconcilePeriod": inVain(reasonPush), "volumeStatsAggPeriod": inVain(reasonPush),
	"configMapAndSecretChangeDetectionStrategy": inVain("changes are watched", "Watch"),
	"kubeAPIQPS": inVain(reasonClient), "kubeAPIBurst": inVain(reasonClient), "contentType": inVain(reasonClient, "application/vnd.kubernetes.protobuf"),
	"eventRecordQPS": inVain(reasonClient), "eventBurst": inVain(reasonClient),
	"registryPullQPS": inVain(reasonPulls, "0"), "registryBurst": inVain(reasonPulls),
	"logging": inVain(reasonLogging), "featureGates": inVain(reasonGates), "showHiddenMetricsForVersion": inVain("no metrics are hidden"),
	"makeIPTablesUtilChains": inVain(reasonRules, "false"), "iptablesMasqueradeBit": inVain(reasonRules), "iptablesDropBit": inVain(reasonRules),
	"hairpinMode":                      inVain("pods are routed, not bridged"),
	"runtimeRequestTimeout":            inVain("each call to the runtime has a limit of its own"),
	"streamingConnectionIdleTimeout":   inVain("it has no effect in upstream's kubelet either"),
	"maxOpenFiles":                     inVain("the process keeps the limits it was started with"),
	"podCIDR":                          inVain("the cluster gives the node its range of pod addresses"),
	"evictionPressureTransitionPeriod": inVain(reasonSoft), "evictionMaxPodGracePeriod": inVain(reasonSoft), "kernelMemcgNotification": inVain(reasonSoft, "false"),
	"localStorageCapacityIsolation": inVain("requests of ephemeral storage count, but nothing is evicted for using more"),
	"containerLogMaxWorkers":        inVain("log files are rotated one after the other", "1"),
	"topologyManagerScope":          inVain("there is no topology manager", "container"),
	"volumePluginDir":               inVain("there are no flex volumes"),
	"enableContentionProfiling":     inVain(reasonProfiling, "false"), "enableProfilingHandler": inVain(reasonProfiling, "false"),
	"enableDebugFlagsHandler": inVain("there is no endpoint for flags", "false"),

	"enableServer": refused("the kubelet's API is always served", "true"),
	"staticPodURL": refused(reasonStaticFiles), "staticPodURLHeader": refused(reasonStaticFiles),
	"readOnlyPort":                           refused("nothing is served to who has not said who they are; leave it out"),
	"imagePullCredentialsVerificationPolicy": refused("every pod of the node may use the images that are on it: only NeverVerify is served", "NeverVerify"),
	"preloadedImagesVerificationAllowlist":   refused("every pod of the node may use the images that are on it; leave it out"),
	"enableDebuggingHandlers":                refused("logs, exec, attach and port-forward are always served", "true"),
	"kubeletCgroups":                         refused(reasonOwnGroups), "systemCgroups": refused(reasonOwnGroups),
	"cgroupRoot":       refused("pods have a control group of this data directory's own; leave it out"),
	"cgroupsPerQOS":    refused("each quality of service has its control group", "true"),
	"cgroupDriver":     {same: []string{"cgroupfs"}, without: "control groups are written directly, and the container runtime must do so too; it is asked"},
	"cpuManagerPolicy": refused(reasonNUMA, "none"), "cpuManagerPolicyOptions": refused(reasonNUMA),
	"memoryManagerPolicy": refused(reasonNUMA, "None", "none"), "topologyManagerPolicy": refused(reasonNUMA, "none"), "topologyManagerPolicyOptions": refused(reasonNUMA),
	"reservedSystemCPUs": refused(reasonNUMA), "reservedMemory": refused(reasonNUMA),
	"qosReserved":       refused("nothing is reserved for pods of one quality of service; leave it out"),
	"runOnce":           refused("the kubelet runs until it is ended", "false"),
	"cpuCFSQuota":       refused("limits of CPU are always enforced", "true"),
	"cpuCFSQuotaPeriod": refused("it is 100ms", "100ms"),
	"evictionSoft":      refused(reasonSoft), "evictionSoftGracePeriod": refused(reasonSoft), "evictionMinimumReclaim": refused(reasonSoft),
	"enableControllerAttachDetach": refused("the kubelet attaches no volumes itself", "true"),
	"protectKernelDefaults":        refused("the kernel's parameters are neither changed nor checked", "false"),
	"systemReservedCgroup":         refused("only pods are held to what is not reserved; leave it out"),
	"kubeReservedCgroup":           refused("only pods are held to what is not reserved; leave it out"),
	"enforceNodeAllocatable":       refused("pods, and nothing else, are held to what is not reserved", "[pods]"),
	"defaultPodSysctls":            refused("pods have the sysctls that they name; leave it out"),
	"enableSystemLogQuery":         refused("queries for the host's logs are not served yet", "false"),
	"shutdownGracePeriod":          refused(reasonShutdown), "shutdownGracePeriodCriticalPods": refused(reasonShutdown), "shutdownGracePeriodByPodPriority": refused(reasonShutdown),
	"crashLoopBackOff":        refused("containers that crash wait 5m0s at most; leave it out", "map[maxContainerRestartPeriod:5m0s]", "map[maxContainerRestartPeriod:300s]", "map[maxContainerRestartPeriod:5m]"),
	"memoryThrottlingFactor":  refused("memory is limited, not throttled; leave it out"),
	"memoryReservationPolicy": refused("no memory is protected from the kernel's reclaim", "None"),
	"registerNode":            refused("the node always registers itself", "true"),
	"tracing":                 refused("no traces are made; leave it out"),
	"userNamespaces":          refused("user namespaces are not served yet; leave it out"),
}
