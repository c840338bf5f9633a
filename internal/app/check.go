package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"skiff.dev/skiff/internal/cgroup"
)

// severity says how much a finding matters.
type severity string

const (
	fine    severity = "ok"
	note    severity = "note"    // worth knowing
	warning severity = "warning" // works, but worse
	missing severity = "error"   // a node cannot run here
)

// finding is the answer to one question about the host.
type finding struct {
	Name     string   `json:"name"`
	Severity severity `json:"severity"`
	Found    string   `json:"found"`
	// Meaning and Advice are empty where all is well.
	Meaning string `json:"meaning,omitempty"`
	Advice  string `json:"advice,omitempty"`
}

func checkCommand() *cobra.Command {
	cfg := Default()
	output := "text"
	cmd := &cobra.Command{
		Use: "check", Short: "Say whether skiff can run on this machine, and what to do if not", Args: cobra.NoArgs,
		Long: `Look at this machine: kernel, control groups, network, ports, space, clock, and what
others have left. Nothing is changed; what has to be tried is tried in namespaces
that end with the command. The exit code is 1 if something is missing that is needed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: %q is neither text nor json", output)
			}
			return report(cmd.OutOrStdout(), output, diagnose(gatherFacts(cmd.Context(), cfg), cfg))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", output, "text or json")
	f.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "where everything will be kept")
	f.StringVar(&cfg.BindAddress, "bind-address", cfg.BindAddress, "address on which the API will be served")
	f.IntVar(&cfg.SecurePort, "secure-port", cfg.SecurePort, "port on which the API will be served")
	f.IntVar(&cfg.KubeletPort, "kubelet-port", cfg.KubeletPort, "port of the kubelet's API")
	f.StringVar(&cfg.PodNetwork, "pod-network", cfg.PodNetwork, "how pods on different nodes will reach each other: host-gw or vxlan")
	f.StringVar(&cfg.RuntimeEndpoint, "container-runtime-endpoint", cfg.RuntimeEndpoint, "CRI socket of a runtime that is there already")
	return cmd
}

// report prints the findings; its error says that something needed is missing.
func report(out io.Writer, format string, all []finding) error {
	bad := 0
	for _, f := range all {
		if f.Severity == missing {
			bad++
		}
	}
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(all); err != nil {
			return err
		}
	} else {
		for _, f := range all {
			fmt.Fprintf(out, "%-8s %-20s %s\n", f.Severity, f.Name, f.Found)
			for _, line := range []string{f.Meaning, f.Advice} {
				if line != "" {
					fmt.Fprintf(out, "%30s%s\n", "", line)
				}
			}
		}
	}
	switch bad {
	case 0:
		return nil
	case 1:
		return errors.New("one thing that is needed is missing")
	}
	return fmt.Errorf("%d things that are needed are missing", bad)
}

// facts are what was seen of the host. An error that is nil means that the
// thing works.
type facts struct {
	root         bool
	kernel       string
	carried      error // the container runtime's programs
	overlay      error
	nftables     error
	veth         error
	vxlan        error
	bridge       error
	cgroup       cgroup.Version
	cgroupErr    error
	controllers  []string
	namespaces   []string // kinds that are missing
	seccomp      bool
	ports        map[string]error // by name, such as "API (6443)"
	inUse        bool             // by a skiff on the data directory
	diskFree     uint64
	memory       uint64
	clockSynced  bool
	now          time.Time
	sysResource  bool
	instances    int // of inotify, per user
	watches      int
	swap         bool
	otherCNI     []string
	otherChains  []string
	otherDevices []string
}

// What is asked for, and what is better to have.
const (
	minDisk, goodDisk          = 1 << 30, 5 << 30
	minMemory, goodMemory      = 384 << 20, 900 << 20
	goodInstances, goodWatches = 512, 65536
	minKernel, goodKernel      = "4.19", "5.13"
	cgroupAdvice               = "enable it on the kernel's command line (cgroup_enable=memory on some boards), or mount it below /sys/fs/cgroup"
	oldestYear                 = 2025
)

// diagnose is pure.
func diagnose(h facts, cfg Config) []finding {
	var all []finding
	add := func(f ...finding) { all = append(all, f...) }
	add(verdict(h.root, "root", "running as root", "not running as root", missing,
		"a node mounts, makes interfaces and control groups", "run it with sudo"))
	add(diagnoseKernel(h)...)
	add(diagnoseCgroups(h)...)
	add(diagnoseNetwork(h, cfg)...)
	for _, name := range []string{"API", "kubelet"} {
		for port, err := range h.ports {
			if !strings.HasPrefix(port, name) {
				continue
			}
			f := verdict(err == nil, "port of the "+port, "free", errText(err), missing,
				"something else listens there", "see who with ss -ltnp, or choose another port")
			if err != nil && h.inUse {
				f.Severity, f.Meaning, f.Advice = note, "a skiff runs on this data directory", ""
			}
			add(f)
		}
	}
	add(diagnoseRoom(h)...)
	add(diagnoseOthers(h)...)
	return all
}

// verdict is a finding about what is there or not.
func verdict(ok bool, name, yes, no string, s severity, meaning, advice string) finding {
	if ok {
		return finding{Name: name, Severity: fine, Found: yes}
	}
	return finding{Name: name, Severity: s, Found: no, Meaning: meaning, Advice: advice}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func diagnoseKernel(h facts) []finding {
	kernel := verdict(atLeast(h.kernel, minKernel), "kernel", h.kernel, h.kernel, missing, "older than "+minKernel, "upgrade the kernel")
	if kernel.Severity == fine && !atLeast(h.kernel, goodKernel) {
		kernel = finding{Name: "kernel", Severity: warning, Found: h.kernel,
			Meaning: "older than " + goodKernel + ", which nftables and control groups work best with", Advice: "upgrade the kernel when you can"}
	}
	return []finding{
		kernel,
		verdict(h.carried == nil, "container runtime", "inside this binary", errText(h.carried), missing,
			"this binary cannot run containers by itself", "use one built by make, or --container-runtime-endpoint"),
		verdict(h.overlay == nil, "overlayfs", "works", errText(h.overlay), warning,
			"image layers will be copied instead of shared: slower, and more disk", "load the kernel module overlay"),
		verdict(len(h.namespaces) == 0, "namespaces", "all kinds", "missing: "+strings.Join(h.namespaces, ", "), namespaceSeverity(h.namespaces),
			"pods cannot be kept apart in this respect", "use a kernel built with them"),
		verdict(h.seccomp, "seccomp", "works", "not in this kernel", warning,
			"pods with a seccomp profile, also RuntimeDefault, will not start", "use a kernel with CONFIG_SECCOMP_FILTER"),
		verdict(h.sysResource, "CAP_SYS_RESOURCE", "held", "not held", note,
			"processes cannot be protected further from the OOM killer than skiff itself is", ""),
	}
}

// namespaceSeverity: pods need all kinds but user namespaces, which few ask for.
func namespaceSeverity(kinds []string) severity {
	if len(kinds) == 1 && kinds[0] == "user" {
		return warning
	}
	return missing
}

// atLeast compares kernel releases such as 6.1.0-18-amd64 by their first two numbers.
func atLeast(release, want string) bool {
	parse := func(s string) (major, minor int) {
		_, _ = fmt.Sscanf(s, "%d.%d", &major, &minor) // zero where it is no number
		return major, minor
	}
	major, minor := parse(release)
	wantMajor, wantMinor := parse(want)
	return major > wantMajor || major == wantMajor && minor >= wantMinor
}

func diagnoseCgroups(h facts) []finding {
	if h.cgroupErr != nil {
		return []finding{{Name: "control groups", Severity: missing, Found: h.cgroupErr.Error(),
			Meaning: "pods could not be limited or measured", Advice: "mount them: systemd does, cgroupfs-mount does elsewhere"}}
	}
	all := []finding{{Name: "control groups", Severity: fine, Found: "version " + strconv.Itoa(int(h.cgroup))}}
	have := map[string]bool{}
	for _, c := range h.controllers {
		have[c] = true
	}
	for _, need := range []struct {
		name     string
		severity severity
		meaning  string
	}{
		{"cpu", missing, "CPU requests and limits need it"},
		{"memory", missing, "memory limits need it"},
		{"pids", missing, "limits on the number of processes need it"},
		{"cpuset", warning, "pinning pods to cores needs it"},
		{"hugetlb", note, "limits on huge pages need it"},
	} {
		all = append(all, verdict(have[need.name], "controller "+need.name, "there", "not there", need.severity, need.meaning, cgroupAdvice))
	}
	return all
}

func diagnoseNetwork(h facts, cfg Config) []finding {
	vxlan := note
	if cfg.PodNetwork == "vxlan" {
		vxlan = missing
	}
	return []finding{
		verdict(h.nftables == nil, "nftables", "works", errText(h.nftables), missing,
			"services, host ports and masquerading need it", "load the kernel module nf_tables (and nft_chain_nat, nft_masq, nft_ct)"),
		verdict(h.veth == nil, "veth", "works", errText(h.veth), missing, "pods are connected by it", "load the kernel module veth"),
		verdict(h.vxlan == nil, "vxlan", "works", errText(h.vxlan), vxlan,
			"nodes that do not share a link need it (--pod-network vxlan)", "load the kernel module vxlan"),
		verdict(h.bridge == nil, "bridge", "works", errText(h.bridge), note,
			"skiff's own network does not need it; that of others may", "load the kernel module bridge"),
	}
}

func diagnoseRoom(h facts) []finding {
	gib := func(n uint64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }
	disk := verdict(h.diskFree >= goodDisk, "disk", gib(h.diskFree)+" free", gib(h.diskFree)+" free", warning,
		"images and logs soon fill it; the kubelet evicts pods below 10 %", "free some, or choose another --data-dir")
	if h.diskFree < minDisk {
		disk.Severity = missing
	}
	memory := verdict(h.memory >= goodMemory, "memory", gib(h.memory), gib(h.memory), warning, "there is little left for pods", "")
	if h.memory < minMemory {
		memory.Severity = missing
	}
	clock := verdict(h.clockSynced, "clock", "kept right", "nobody keeps it right", warning,
		"certificates and tokens are refused by machines whose clocks differ", "run chrony or systemd-timesyncd")
	if h.now.Year() < oldestYear {
		clock = finding{Name: "clock", Severity: missing, Found: h.now.UTC().Format(time.RFC3339),
			Meaning: "certificates would not be valid", Advice: "set the clock"}
	}
	return []finding{
		disk, memory, clock,
		verdict(h.instances >= goodInstances, "inotify instances", strconv.Itoa(h.instances), strconv.Itoa(h.instances), warning,
			"containers that watch files may fail with \"too many open files\"", "sysctl -w fs.inotify.max_user_instances=8192"),
		verdict(h.watches >= goodWatches, "inotify watches", strconv.Itoa(h.watches), strconv.Itoa(h.watches), warning,
			"containers that watch many files may fail with \"no space left on device\"", "sysctl -w fs.inotify.max_user_watches=524288"),
		verdict(!h.swap, "swap", "off", "on", note, "pods do not use it, unless they are let; limits are less sharp", ""),
	}
}

func diagnoseOthers(h facts) []finding {
	return []finding{
		verdict(len(h.otherCNI) == 0, "other pod networks", "none", strings.Join(h.otherCNI, ", "), note,
			"another pod network is configured; skiff's runtime does not look there", "remove it if it is left over"),
		verdict(len(h.otherChains) == 0, "other rules", "none", strings.Join(h.otherChains, ", "), warning,
			"rules of another kube-proxy or pod network may catch packets before skiff's", "flush them, or reboot, if they are left over"),
		verdict(len(h.otherDevices) == 0, "other devices", "none", strings.Join(h.otherDevices, ", "), note,
			"interfaces of another pod network; their routes may overlap with skiff's", "remove them if they are left over"),
	}
}

// gatherFacts looks at the host; it is all that is not pure here.
func gatherFacts(ctx context.Context, cfg Config) facts {
	var h facts
	h.readKernel(cfg)
	h.readCgroups()
	h.readRoom(cfg)
	h.tryPorts(ctx, cfg)
	h.tryNetwork()
	h.overlay = tryOverlay()
	h.readOthers()
	return h
}
