//go:build e2e

package e2e

import "testing"

func TestCrash(t *testing.T) { testCrash(t, 50) }
