package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/cni"
	"skiff.dev/skiff/internal/cni/overlay"
	"skiff.dev/skiff/internal/dns"
	"skiff.dev/skiff/internal/nftables"
	"skiff.dev/skiff/internal/proxy"
	"skiff.dev/skiff/internal/runtime"
)

// leftoversFile tells a reset what the node puts into its network namespace.
const leftoversFile = "node-network.json"

// leftovers is what cannot be told from the data directory otherwise.
type leftovers struct {
	// NetNS is the inode of the network namespace: another one, with the same
	// names in it, may be another cluster's.
	NetNS      uint64     `json:"netns"`
	ClusterDNS netip.Addr `json:"clusterDNS"`
}

func currentNetNS() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("reading the network namespace: %w", err)
	}
	return st.Ino, nil
}

// record is called before anything is put into the kernel.
func (n *Node) record() error {
	ns, err := currentNetNS()
	if err != nil {
		return err
	}
	data, err := json.Marshal(leftovers{NetNS: ns, ClusterDNS: n.ClusterDNS})
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.dir(leftoversFile), data, 0o600); err != nil {
		return fmt.Errorf("recording what a reset has to remove: %w", err)
	}
	return nil
}

// ErrElsewhere means that the node ran in another network namespace than the
// caller's.
var ErrElsewhere = errors.New("the node of this data directory ran in another network namespace: reset from within it, or after it is gone")

// CleanupNetwork removes what the node of a data directory has put into the
// calling thread's network namespace: tables, routes, links, addresses, and
// the CNI's files. The pods must be gone. It may be repeated, and does nothing
// where no node has run, or where the node's namespace is there no more.
func CleanupNetwork(ctx context.Context, dataDir string) error {
	data, err := os.ReadFile(filepath.Join(dataDir, leftoversFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var left leftovers
	if err == nil {
		err = json.Unmarshal(data, &left)
	}
	if err != nil {
		return fmt.Errorf("reading what the node has left: %w", err)
	}
	ns, err := currentNetNS()
	if err != nil {
		return err
	}
	if ns != left.NetNS {
		if there, err := canEnter(left.NetNS); there || err != nil {
			return errors.Join(ErrElsewhere, err)
		}
		return nil // gone, and with it what was in it
	}
	n := &Node{Config: Config{DataDir: dataDir}}
	errs := []error{n.cleanupRules(ctx)}
	cidrs, err := n.podCIDRs()
	errs = append(errs, err, cni.Cleanup(ctx, n.cniConfig(cidrs, 0)))
	if left.ClusterDNS.IsValid() {
		errs = append(errs, dns.Unbind([]netip.Addr{left.ClusterDNS}))
	}
	return errors.Join(errs...)
}

// canEnter reports whether a network namespace, by its inode, has a process in it
// or a name in some mount namespace. One that has neither has been deleted, also
// if an open file or a dying socket still keeps the kernel from freeing it. Only
// processes that can be seen from here count.
func canEnter(netNS uint64) (bool, error) {
	want := fmt.Sprintf("net:[%d]", netNS)
	threads, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	if err != nil {
		return false, err
	}
	searched := map[string]bool{}
	for _, t := range threads {
		if in, err := os.Readlink(filepath.Join(t, "ns/net")); err == nil && in == want {
			return true, nil
		}
		mounts, err := os.Readlink(filepath.Join(t, "ns/mnt"))
		if err != nil || searched[mounts] {
			continue // ended since, or looked into
		}
		searched[mounts] = true
		info, err := os.ReadFile(filepath.Join(t, "mountinfo"))
		if err == nil && strings.Contains(string(info), " "+want+" ") {
			return true, nil
		}
	}
	return false, nil
}

func (n *Node) cleanupRules(ctx context.Context) error {
	kernel, err := nftables.Open()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	defer kernel.Close()
	errs := []error{proxy.NFTables(n.proxyConfig(), kernel).Cleanup(ctx)}
	routes, err := overlay.Open()
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("opening the node's network: %w", err))...)
	}
	defer routes.Close()
	return errors.Join(append(errs, routes.Cleanup(ctx, n.overlayConfig()))...)
}

// podCIDRs are those of the CNI's configuration, nil if there is none.
func (n *Node) podCIDRs() ([]netip.Prefix, error) {
	conf, _ := runtime.CNIDirsOf(n.DataDir)
	files, err := filepath.Glob(filepath.Join(conf, "*.conflist"))
	if err != nil {
		return nil, err
	}
	var cidrs []netip.Prefix
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the pod network's configuration: %w", err)
		}
		var list struct {
			Plugins []struct {
				Type     string         `json:"type"`
				PodCIDRs []netip.Prefix `json:"podCIDRs"`
			} `json:"plugins"`
		}
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		for _, plugin := range list.Plugins {
			if plugin.Type == cni.PluginName {
				cidrs = append(cidrs, plugin.PodCIDRs...)
			}
		}
	}
	return cidrs, nil
}
