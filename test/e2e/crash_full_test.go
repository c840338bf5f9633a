//go:build e2e

package e2e

import "testing"

// TestCrash kills skiff at fifty instants, after each of which it has to be
// ready in time.
func TestCrash(t *testing.T) {
	took := testCrash(t, 50)
	if worst := took[len(took)-1]; worst > readyWithin {
		t.Errorf("it took %v to be ready again, more than %v", worst, readyWithin)
	}
}
