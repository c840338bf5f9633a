package runtime

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DefaultSandboxImage is the name under which the carried pause image is known to containerd.
const DefaultSandboxImage = "registry.k8s.io/pause:3.10.1"

// maxLogLine is where the CRI splits a container's log line, the size upstream's tools expect.
const maxLogLine = 16 * 1024

// Config says where a runtime lives and how its containers are made. DataDir is required.
type Config struct {
	// DataDir is skiff's data directory; the runtime keeps to <DataDir>/runtime, /cni and /images.
	DataDir string
	// SandboxImage names the image of a pod's first process; DefaultSandboxImage when empty. The
	// carried pause image is imported under that name, unless the name is there already.
	SandboxImage string
	// CNIConfDir and CNIBinDir are <DataDir>/cni/net.d and <DataDir>/cni/bin when empty.
	CNIConfDir string
	CNIBinDir  string
	// RegistryConfigDir holds containerd's per-registry hosts.toml files;
	// <DataDir>/runtime/certs.d when empty.
	RegistryConfigDir string
	// Snapshotter is "overlayfs" or "native"; empty for overlayfs where the data directory's file
	// system can carry it, and native otherwise.
	Snapshotter string
	// ShimGroups is the number of shim processes that the node's pods are spread over, 1 when 0. More
	// groups cost memory and bound the number of pods that the death of one shim restarts.
	ShimGroups int
	// LogLevel is containerd's: debug, info, warn or error; warn when empty.
	LogLevel string
	// Log is for the supervisor's own messages; slog.Default() when nil.
	Log *slog.Logger
}

// withDefaults fills what was left empty and reports what cannot work.
func (c Config) withDefaults() (Config, error) {
	if c.DataDir == "" {
		return c, errors.New("runtime: the data directory is not set")
	}
	abs, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, fmt.Errorf("resolving the data directory: %w", err)
	}
	c.DataDir = abs
	setDefault(&c.SandboxImage, DefaultSandboxImage)
	setDefault(&c.CNIConfDir, filepath.Join(abs, "cni", "net.d"))
	setDefault(&c.CNIBinDir, filepath.Join(abs, "cni", "bin"))
	setDefault(&c.RegistryConfigDir, filepath.Join(abs, "runtime", "certs.d"))
	setDefault(&c.LogLevel, "warn")
	if c.ShimGroups == 0 {
		c.ShimGroups = 1
	}
	if c.ShimGroups < 0 || c.ShimGroups > 65535 {
		return c, fmt.Errorf("runtime: shim groups must be from 1 to 65535, not %d", c.ShimGroups)
	}
	switch c.Snapshotter {
	case "", "overlayfs", "native":
	default:
		return c, fmt.Errorf("runtime: snapshotter must be overlayfs or native, not %q", c.Snapshotter)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c, nil
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// layout is every path the runtime uses. What must outlive a reboot lies below the data directory;
// sockets, pid files and mounts lie below run, whose name is short because a socket's path may have
// at most 107 bytes (containerd allows 42 for the directory of its shims' sockets).
type layout struct {
	data   string // <DataDir>/runtime
	bin    string // the carried programs
	root   string // containerd's persistent root
	config string // its configuration
	log    string // its log
	images string // <DataDir>/images: archives imported at start

	run    string // /run/skiff/<hash of DataDir>
	state  string // containerd's volatile state
	shims  string // the shims' sockets
	socket string // containerd's gRPC and CRI socket
	ttrpc  string // containerd's event socket
	lock   string // held by a running containerd
	pid    string // who holds it
	notify string // where containerd says that it is ready
	cni    string // where skiff answers calls of its network plugin
	nets   string // what containerd keeps of the plugin's results
}

// runParent holds one directory per data directory of this machine.
const runParent = "/run/skiff"

// layoutOf returns the paths of a data directory, which must be absolute.
func layoutOf(dataDir string) layout {
	sum := sha256.Sum256([]byte(filepath.Clean(dataDir)))
	data := filepath.Join(dataDir, "runtime")
	run := filepath.Join(runParent, hex.EncodeToString(sum[:6]))
	return layout{
		data:   data,
		bin:    filepath.Join(data, "bin"),
		root:   filepath.Join(data, "containerd"),
		config: filepath.Join(data, "containerd.toml"),
		log:    filepath.Join(data, "containerd.log"),
		images: filepath.Join(dataDir, "images"),

		run:    run,
		state:  filepath.Join(run, "state"),
		shims:  filepath.Join(run, "s"),
		socket: filepath.Join(run, "containerd.sock"),
		ttrpc:  filepath.Join(run, "containerd.sock.ttrpc"),
		lock:   filepath.Join(run, "containerd.lock"),
		pid:    filepath.Join(run, "containerd.json"),
		notify: filepath.Join(run, "notify.sock"),
		cni:    filepath.Join(run, "cni.sock"),
		nets:   filepath.Join(run, "cni"),
	}
}

// prepare makes the directories, 0700 but for containerd's state, which user-namespaced containers
// must be able to pass through (containerd sets its mode itself).
func (l layout) prepare(c Config) error {
	for _, dir := range []string{
		l.data, l.bin, l.root, l.images, c.CNIConfDir, c.CNIBinDir, c.RegistryConfigDir,
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("preparing the runtime's directory: %w", err)
		}
	}
	for _, dir := range []string{runParent, l.run, l.shims} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("preparing the runtime's directory: %w", err)
		}
	}
	// What skiff reset has to look for outside of the data directory.
	if err := os.WriteFile(filepath.Join(l.data, "run-dir"), []byte(l.run+"\n"), 0o600); err != nil {
		return fmt.Errorf("recording the runtime's directory: %w", err)
	}
	return nil
}

// containerdConfig returns containerd's configuration file for c on a host with these traits; pause is
// the checksum of the carried pause.
func containerdConfig(c Config, l layout, h host, pause string) ([]byte, error) {
	type table = map[string]any
	runc := filepath.Join(l.bin, runcName)
	plugins := table{
		"io.containerd.server.v1.grpc":  table{"address": l.socket},
		"io.containerd.server.v1.ttrpc": table{"address": l.ttrpc},
		"io.containerd.shim.v1.manager": table{
			"socket_dir": l.shims,
			"env":        shimEnvironment(c, l, pause),
		},
		"io.containerd.gc.v1.scheduler": table{"startup_delay": "10s"},
		"io.containerd.cri.v1.images": table{
			"snapshotter":      h.snapshotter,
			"pinned_images":    table{"sandbox": c.SandboxImage},
			"registry":         table{"config_path": c.RegistryConfigDir},
			"image_decryption": table{"key_model": ""},
			// Sizes of snapshots for the CRI's image file system statistics; the kubelet reads them
			// every 10 s at most, so a walk more often than a minute buys nothing.
			"stats_collect_period":    60,
			"use_local_image_pull":    false,
			"discard_unpacked_layers": false,
		},
		"io.containerd.transfer.v1.local": table{
			"config_path": c.RegistryConfigDir,
			"unpack_config": []table{{
				"platform": "linux/" + h.arch, "snapshotter": h.snapshotter, "differ": "walking",
			}},
		},
		"io.containerd.cri.v1.runtime": table{
			"enable_selinux":                         false,
			"max_container_log_line_size":            maxLogLine,
			"disable_apparmor":                       !h.apparmor,
			"restrict_oom_score_adj":                 !h.mayLowerOOMScore,
			"disable_hugetlb_controller":             false,
			"tolerate_missing_hugetlb_controller":    true,
			"device_ownership_from_security_context": true,
			"netns_mounts_under_state_dir":           true,
			"enable_unprivileged_ports":              true,
			"enable_unprivileged_icmp":               true,
			"cdi_spec_dirs":                          []string{"/etc/cdi", "/var/run/cdi"},
			"drain_exec_sync_io_timeout":             "10s",
			// Samples for the CRI's rates of CPU time, for which containerd asks the shim about each
			// container. The kubelet reads control groups and works out rates by itself.
			"stats_collect_period": "1h",
			"enable_criu":          false,
			"cni": table{
				"bin_dirs": []string{c.CNIBinDir}, "conf_dir": c.CNIConfDir,
				"max_conf_num": 1, "use_internal_loopback": true,
			},
			"containerd": table{
				"default_runtime_name": "runc",
				"runtimes": table{"runc": table{
					// No runtime_path: containerd finds the shim by this name in PATH, and by a path it
					// would ask the shim what it can do for every container.
					"runtime_type": "io.containerd.runc.v2",
					"sandboxer":    "podsandbox",
					"options": table{
						"BinaryName": runc, "Root": filepath.Join(l.run, "runc"), "SystemdCgroup": false,
					},
				}},
			},
		},
		// Streams of exec, attach and port-forward: the only listener that is not a Unix socket,
		// because the CRI hands out a URL. It is bound to loopback, on a port of the kernel's choice,
		// and serves a request only with the one-time token of the CRI call before it.
		"io.containerd.grpc.v1.cri": table{
			"disable_tcp_service": true, "stream_server_address": "127.0.0.1", "stream_server_port": "0",
			"stream_idle_timeout": "4h0m0s", "enable_tls_streaming": false,
		},
	}
	data, err := toml.Marshal(table{
		"version": 4,
		"root":    l.root,
		"state":   l.state,
		"temp":    filepath.Join(l.data, "tmp"),
		"imports": []string{},
		// Without the CRI the process is of no use: rather fail with its reason than serve without.
		"required_plugins": []string{"io.containerd.grpc.v1.cri"},
		"debug":            table{"level": c.LogLevel, "format": "text"},
		"plugins":          plugins,
	})
	if err != nil {
		return nil, fmt.Errorf("writing containerd's configuration: %w", err)
	}
	return append([]byte(configHeader), data...), nil
}

// shimEnvironment is what the shim and its launcher are told.
func shimEnvironment(c Config, l layout, pause string) []string {
	env := []string{fmt.Sprintf("SKIFF_SHIM_GROUPS=%d", c.ShimGroups), "SKIFF_PAUSE=" + pause}
	if c.ShimGroups == 1 {
		env = append(env, "SKIFF_SHIM_ANSWER="+filepath.Join(l.shims, "answer"))
	}
	return env
}

const configHeader = "# Written by skiff at every start; changes are lost.\n"

// environment is what containerd may see of skiff's own: where programs are, where calls of the network
// plugin are answered (for that plugin's launcher, which inherits it), how to get through a proxy, whom
// to trust. Everything else, secrets included, stays here. The carried programs come first in PATH, where
// containerd looks the shim up.
func (l layout) environment() []string {
	env := []string{"NOTIFY_SOCKET=" + l.notify, cniResultsEnv + "=" + l.nets, "SKIFF_CNI_SOCKET=" + l.cni, "PATH=" + l.bin + ":" + os.Getenv("PATH")}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch strings.ToUpper(name) {
		case "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR":
			env = append(env, kv)
		}
	}
	return env
}
