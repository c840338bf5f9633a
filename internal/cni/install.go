package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/nftables"
)

// PluginName is the name of the plugin's program and of its configuration's type.
const PluginName = "skiff-cni"

// DefaultHostPortTable is the table of a cluster alone in its namespace.
const DefaultHostPortTable = "skiff-hostport"

// Config says how a node's pods are connected.
type Config struct {
	// ConfDir and BinDir are where the runtime looks for configuration and
	// programs; StateDir is the plugin's own.
	ConfDir, BinDir, StateDir string
	// Plugin is the path of the plugin's program.
	Plugin string
	// HostPortTable is the name of the tables for host ports.
	HostPortTable string
	// MTU of the pods' links; 0 leaves it to the kernel (1500).
	MTU int
	// PodCIDRs are the node's, at most one per family.
	PodCIDRs []netip.Prefix
}

// confFile sorts first, and tells whose it is.
const confFile = "10-skiff.conflist"

// Install puts the plugin and its configuration where the runtime finds them.
// The configuration comes last and in one step: a runtime that sees it can use
// it. It can be called again when the configuration changes.
func Install(c Config) error {
	for _, dir := range []string{c.ConfDir, c.BinDir, c.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("installing network plugin: %w", err)
		}
	}
	link := filepath.Join(c.BinDir, PluginName)
	if old, err := os.Readlink(link); err != nil || old != c.Plugin {
		tmp := link + ".new"
		os.Remove(tmp) // left by an install that was cut short, if at all
		if err := errors.Join(os.Symlink(c.Plugin, tmp), os.Rename(tmp, link)); err != nil {
			return fmt.Errorf("installing network plugin: %w", err)
		}
	}
	data, err := json.MarshalIndent(conflist(c), "", "  ")
	if err != nil {
		return fmt.Errorf("writing network configuration: %w", err)
	}
	path := filepath.Join(c.ConfDir, confFile)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	tmp := filepath.Join(c.ConfDir, "."+confFile)
	if err := errors.Join(os.WriteFile(tmp, data, 0o600), os.Rename(tmp, path)); err != nil {
		return fmt.Errorf("writing network configuration: %w", err)
	}
	return nil
}

func conflist(c Config) map[string]any {
	return map[string]any{
		"cniVersion": Version,
		"name":       "skiff",
		"plugins": []any{map[string]any{
			"type": PluginName, "hostPortTable": c.HostPortTable, "mtu": c.MTU, "podCIDRs": c.PodCIDRs, "stateDir": c.StateDir,
			"capabilities": map[string]bool{"portMappings": true},
		}},
	}
}

// Collect removes the attachments of sandboxes that are not among live: those
// whose end the plugin was never told of, because the node lost power or the
// runtime its memory. Call it before pods are started, with all sandboxes that
// the runtime knows: one that begins meanwhile is not among them.
func Collect(c Config, live []string) error {
	if _, err := os.Stat(c.StateDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	keep := map[string]bool{}
	for _, id := range live {
		keep[id] = true
	}
	return c.network().collect(func(a *attachment) bool { return keep[a.Container] })
}

func (c Config) network() *Network {
	return &Network{HostPortTable: c.HostPortTable, StateDir: c.StateDir, PodCIDRs: c.PodCIDRs, MTU: c.MTU}
}

// Cleanup removes all that Install and the plugin have made: the links of
// pods, routes, tables, configuration and state. The pods must be gone. It
// removes what it finds and returns what it could not. Forwarding stays on:
// others may have come to rely on it.
func Cleanup(ctx context.Context, c Config) error {
	errs := []error{Collect(c, nil)}
	for _, p := range c.PodCIDRs {
		if err := netlink.RouteDel(unreachable(p)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("removing route to %s: %w", p, err))
		}
	}
	if k, err := nftables.Open(); err != nil {
		errs = append(errs, err)
	} else {
		for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
			errs = append(errs, k.Apply(ctx, nftables.Delete(f, c.HostPortTable)))
		}
		errs = append(errs, k.Close())
	}
	for _, path := range []string{filepath.Join(c.ConfDir, confFile), filepath.Join(c.BinDir, PluginName)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(c.StateDir))...)
}
