package run

import (
	"strings"
	"testing"
	"time"
)

const sample = `Running Suite: Kubernetes e2e suite
Will run 3 of 7000 specs
------------------------------
• [2.500 seconds]
[sig-apps] Deployment [It] works [Conformance] [sig-apps, Conformance]
k8s.io/kubernetes/test/e2e/apps/deployment.go:1

  Timeline >>
  • not a header
  << Timeline
------------------------------
• [FAILED] [0.012 seconds]
[sig-network] Services [It] work [Conformance] [sig-network, Conformance]
`

func TestProgress(t *testing.T) {
	var log strings.Builder
	p := newProgress(&log, 4)
	for line := range strings.Lines(sample) {
		p.line(strings.TrimSuffix(line, "\n"))
	}
	p.start = time.Unix(0, 0)
	if got, want := p.state(time.Unix(120, 0)), "2 of 3 done, 1 failed; 2m0s, about 1m0s left"; got != want {
		t.Errorf("the state is %q, not %q", got, want)
	}
	for _, want := range []string{"3 specs, 4 at a time\n", "FAILED [sig-network] Services work [Conformance]\n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
}
