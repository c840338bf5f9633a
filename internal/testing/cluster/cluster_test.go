package cluster

import (
	"testing"
	"time"

	"skiff.dev/skiff/internal/testing/build"
)

func TestDeploymentRuns(t *testing.T) {
	Run(t, Config{Seed: 1, Nodes: 3, Verify: true}, func(c *Cluster) {
		ensure(c, build.Deployment("web", 6))
		c.Eventually(time.Minute, "the deployment runs", Settled)
	})
}
