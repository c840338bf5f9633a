package oci

import (
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ofResources wants limits that Cgroup knows how to set, and the devices that every container has.
func ofResources(l *specs.Linux) error {
	r := l.Resources
	if r == nil {
		return refuse("there are no resources")
	}
	rest := *r
	rest.Devices, rest.Memory, rest.CPU, rest.Pids, rest.HugepageLimits, rest.Unified = nil, nil, nil, nil, nil, nil
	if err := nothingElse("resources", rest); err != nil {
		return err
	}
	if len(r.Devices) != 1 || r.Devices[0] != (specs.LinuxDeviceCgroup{Access: "rwm"}) {
		return refuse("the rules for devices are unusual")
	}
	if r.Memory != nil {
		rest := *r.Memory
		rest.Limit, rest.Reservation, rest.Swap = nil, nil, nil
		if err := nothingElse("memory", rest); err != nil {
			return err
		}
	}
	if r.CPU != nil {
		rest := *r.CPU
		rest.Shares, rest.Quota, rest.Burst, rest.Period, rest.Cpus, rest.Mems, rest.Idle = nil, nil, nil, nil, "", "", nil
		return nothingElse("cpu", rest)
	}
	return nil
}

// Cgroup is the container's cgroup with its limits.
func (b *Bundle) Cgroup() *cgroups.Cgroup {
	from := b.Spec.Linux.Resources
	r := &cgroups.Resources{Devices: deviceRules(), Unified: from.Unified}
	if m := from.Memory; m != nil {
		take(&r.Memory, m.Limit)
		take(&r.MemoryReservation, m.Reservation)
		take(&r.MemorySwap, m.Swap)
	}
	if c := from.CPU; c != nil {
		take(&r.CpuShares, c.Shares)
		take(&r.CpuQuota, c.Quota)
		take(&r.CpuPeriod, c.Period)
		r.CpuBurst, r.CpusetCpus, r.CpusetMems, r.CPUIdle = c.Burst, c.Cpus, c.Mems, c.Idle
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(r.CpuShares)
	}
	if p := from.Pids; p != nil {
		r.PidsLimit = p.Limit
	}
	for _, l := range from.HugepageLimits {
		r.HugetlbLimit = append(r.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	return &cgroups.Cgroup{Path: b.Spec.Linux.CgroupsPath, Resources: r}
}

func take[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// deviceRules let a container make any device and use the harmless ones: those it has, terminals, and the
// network tunnel's.
func deviceRules() []*config.Rule {
	rules := []*config.Rule{
		{Type: config.WildcardDevice, Major: config.Wildcard, Minor: config.Wildcard, Permissions: "rwm"},
		{Type: config.CharDevice, Major: config.Wildcard, Minor: config.Wildcard, Permissions: "m", Allow: true},
		{Type: config.BlockDevice, Major: config.Wildcard, Minor: config.Wildcard, Permissions: "m", Allow: true},
	}
	for _, d := range defaultDevices {
		rules = append(rules, &d.Rule)
	}
	return append(rules,
		&config.Rule{Type: config.CharDevice, Major: 136, Minor: config.Wildcard, Permissions: "rwm", Allow: true}, // terminals
		&config.Rule{Type: config.CharDevice, Major: 5, Minor: 2, Permissions: "rwm", Allow: true},                 // /dev/ptmx
		&config.Rule{Type: config.CharDevice, Major: 10, Minor: 200, Permissions: "rwm", Allow: true},              // /dev/net/tun
	)
}
