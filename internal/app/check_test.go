package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"skiff.dev/skiff/internal/cgroup"
)

func goodHost() facts {
	return facts{
		root: true, kernel: "6.1.0-18-amd64", cgroup: cgroup.V2, controllers: []string{"cpu", "cpuset", "memory", "pids", "hugetlb"},
		seccomp: true, ports: map[string]error{"API (6443)": nil, "kubelet (10250)": nil},
		diskFree: 50 << 30, memory: 4 << 30, clockSynced: true, now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC),
		sysResource: true, instances: 8192, watches: 524288,
	}
}

func TestDiagnose(t *testing.T) {
	broken := errors.New("operation not supported")
	tests := map[string]struct {
		change func(h *facts, cfg *Config)
		want   map[string]severity
	}{
		"good":           {func(*facts, *Config) {}, nil},
		"user":           {func(h *facts, _ *Config) { h.root = false }, map[string]severity{"root": missing}},
		"old kernel":     {func(h *facts, _ *Config) { h.kernel = "4.18.0" }, map[string]severity{"kernel": missing}},
		"middle kernel":  {func(h *facts, _ *Config) { h.kernel = "5.10.0-30" }, map[string]severity{"kernel": warning}},
		"no kernel":      {func(h *facts, _ *Config) { h.kernel = "" }, map[string]severity{"kernel": missing}},
		"no nftables":    {func(h *facts, _ *Config) { h.nftables = broken }, map[string]severity{"nftables": missing}},
		"no vxlan":       {func(h *facts, _ *Config) { h.vxlan = broken }, map[string]severity{"vxlan": note}},
		"vxlan asked":    {func(h *facts, c *Config) { h.vxlan, c.PodNetwork = broken, "vxlan" }, map[string]severity{"vxlan": missing}},
		"no overlay":     {func(h *facts, _ *Config) { h.overlay = broken }, map[string]severity{"overlayfs": warning}},
		"no memory":      {func(h *facts, _ *Config) { h.controllers = []string{"cpu", "cpuset", "pids", "hugetlb"} }, map[string]severity{"controller memory": missing}},
		"no cgroups":     {func(h *facts, _ *Config) { h.cgroupErr = broken }, map[string]severity{"control groups": missing}},
		"no user ns":     {func(h *facts, _ *Config) { h.namespaces = []string{"user"} }, map[string]severity{"namespaces": warning}},
		"no net ns":      {func(h *facts, _ *Config) { h.namespaces = []string{"net"} }, map[string]severity{"namespaces": missing}},
		"port in use":    {func(h *facts, _ *Config) { h.ports["API (6443)"] = broken }, map[string]severity{"port of the API (6443)": missing}},
		"skiff running":  {func(h *facts, _ *Config) { h.ports["API (6443)"], h.inUse = broken, true }, map[string]severity{"port of the API (6443)": note}},
		"full disk":      {func(h *facts, _ *Config) { h.diskFree = 1 << 20 }, map[string]severity{"disk": missing}},
		"nearly full":    {func(h *facts, _ *Config) { h.diskFree = 2 << 30 }, map[string]severity{"disk": warning}},
		"1970":           {func(h *facts, _ *Config) { h.now = time.Unix(0, 0) }, map[string]severity{"clock": missing}},
		"free clock":     {func(h *facts, _ *Config) { h.clockSynced = false }, map[string]severity{"clock": warning}},
		"few instances":  {func(h *facts, _ *Config) { h.instances = 128 }, map[string]severity{"inotify instances": warning}},
		"swap":           {func(h *facts, _ *Config) { h.swap = true }, map[string]severity{"swap": note}},
		"another's rule": {func(h *facts, _ *Config) { h.otherChains = []string{"3 chains KUBE…"} }, map[string]severity{"other rules": warning}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h, cfg := goodHost(), Default()
			test.change(&h, &cfg)
			var got map[string]severity
			for _, f := range diagnose(h, cfg) {
				if f.Severity == fine {
					continue
				}
				if got == nil {
					got = map[string]severity{}
				}
				got[f.Name] = f.Severity
				if f.Severity != note && (f.Meaning == "" || f.Found == "" && name != "no kernel") {
					t.Errorf("finding without explanation: %+v", f)
				}
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestReport(t *testing.T) {
	all := []finding{
		{Name: "kernel", Severity: fine, Found: "6.1"},
		{Name: "veth", Severity: missing, Found: "no", Meaning: "pods need it", Advice: "load it"},
	}
	var out bytes.Buffer
	if err := report(&out, "text", all); err == nil || err.Error() != "one thing that is needed is missing" {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"ok       kernel", "error    veth", "pods need it", "load it"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := report(&out, "json", all[:1]); err != nil {
		t.Errorf("error %v", err)
	}
	var got []finding
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(all[:1], got); d != "" {
		t.Error(d)
	}
}

func TestCheckLeavesNothingBehind(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	if !inNamespaces(t) {
		return
	}
	links, mounts := linkNames(t), mountLines(t)
	cfg := Default()
	cfg.DataDir = t.TempDir() + "/none"
	h := gatherFacts(t.Context(), cfg)
	if d := cmp.Diff(links, linkNames(t)); d != "" {
		t.Errorf("left behind: %s", d)
	}
	if d := cmp.Diff(lasting(mounts, mountLines(t))); d != "" {
		t.Errorf("left behind: %s", d)
	}
	if h.veth != nil || h.nftables != nil || h.kernel == "" || h.memory == 0 || h.diskFree == 0 || len(h.controllers) == 0 || h.ports["API (6443)"] != nil {
		t.Errorf("seen: %+v", h)
	}
	if exists(cfg.DataDir) {
		t.Error("made the data directory")
	}
}

func linkNames(t *testing.T) (names []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func mountLines(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(mounts)), "\n")
}

// lasting leaves out the mounts whose directory is not there any more. Who
// removes one, such as the test of a runtime that ends meanwhile, takes along
// what is mounted on it in all other namespaces, be they private or not.
func lasting(before, after []string) (lastingBefore, lastingAfter []string) {
	gone := func(line string) bool { return !exists(strings.Fields(line)[1]) }
	return slices.DeleteFunc(before, gone), slices.DeleteFunc(after, gone)
}
