package runtime

// EndpointOf returns the CRI socket that the runtime of a data directory has
// while it runs.
func EndpointOf(dataDir string) string { return "unix://" + layoutOf(dataDir).socket }
