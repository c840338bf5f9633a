package runtime

import "path/filepath"

// EndpointOf returns the CRI socket that the runtime of a data directory has
// while it runs.
func EndpointOf(dataDir string) string { return "unix://" + layoutOf(dataDir).socket }

// CNIPluginOf returns where the runtime of a data directory puts the carried
// network plugin.
func CNIPluginOf(dataDir string) string { return filepath.Join(layoutOf(dataDir).bin, cniName) }

// CNISocketOf returns the socket at which that plugin asks for an answer.
func CNISocketOf(dataDir string) string { return layoutOf(dataDir).cni }

// CNIDirsOf returns where the runtime of a data directory looks for network
// configurations and plugins.
func CNIDirsOf(dataDir string) (conf, bin string) {
	return filepath.Join(dataDir, "cni", "net.d"), filepath.Join(dataDir, "cni", "bin")
}
