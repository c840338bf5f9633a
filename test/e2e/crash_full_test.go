//go:build e2e

package e2e

import (
	"testing"
	"time"

	"skiff.dev/skiff/test/e2e/cluster"
)

// TestCrash kills skiff at fifty instants, after each of which it has to be
// ready in time: within a second, or on a machine where more wants to run than
// can, as many times that as there is work for each CPU.
func TestCrash(t *testing.T) {
	took, load := testCrash(t, 50)
	within := time.Duration(load * float64(cluster.Within(readyWithin)))
	if worst := took[len(took)-1]; worst > within {
		t.Errorf("it took %v to be ready again, more than %v at %.1f times as much work as the machine can do", worst, within, load)
	}
}
