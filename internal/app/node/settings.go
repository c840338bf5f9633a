package node

import (
	"skiff.dev/skiff/internal/client/review"
	"skiff.dev/skiff/internal/kubelet/image"
	"skiff.dev/skiff/internal/kubelet/logs"
	"skiff.dev/skiff/internal/kubelet/nodestatus"
	"skiff.dev/skiff/internal/kubelet/server"
)

// Settings is what of a kubelet may be told otherwise than usual.
type Settings struct {
	// ResolvConf is the host's, "" for none: pods that use it then have no DNS.
	ResolvConf string
	// DNSServers are told to pods; nil for the node's ClusterDNS.
	DNSServers []string
	// PodLogs is the directory of pods' logs; "" for one below KubeletDir.
	PodLogs string

	Pulls   image.PullConfig
	Logs    logs.Config
	Reserve nodestatus.Reserve
	// PIDLimit bounds the processes of each pod; 0 for no bound.
	PIDLimit      int64
	LeaseSeconds  int32
	MaxImages     int // that the node's status lists, -1 for all
	ProviderID    string
	UnsafeSysctls []string

	SeccompUnconfined bool // for pods that ask for no profile
	SingleProcessOOM  bool // kill a process, not the container, that has no memory left
	SystemLogs        string
	Address           string // the kubelet's API is served on; "" for all
	TLS               server.TLS
	ReviewsLast       review.Lifetimes
}

// DefaultSettings are the usual ones.
func DefaultSettings() Settings {
	return Settings{
		ResolvConf: resolvConf, Pulls: image.DefaultPullConfig(), Logs: logs.DefaultConfig(), Reserve: nodestatus.DefaultReserve(),
		LeaseSeconds: nodestatus.DefaultLeaseSeconds, MaxImages: nodestatus.DefaultMaxImages, ReviewsLast: review.DefaultLifetimes(),
	}
}
