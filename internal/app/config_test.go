package app

import (
	"strings"
	"testing"
	"time"
)

func TestNodeGrace(t *testing.T) {
	cfg := Default()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []time.Duration{0, -time.Second} {
		cfg.NodeGrace = wrong
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "node-monitor-grace-period") {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}
