// Package version says what this build is: skiff's own version, and the
// version of Kubernetes whose behaviour it has.
package version

import (
	"runtime"

	"k8s.io/apimachinery/pkg/version"
)

// Kubernetes is the version of the API and behaviour that skiff implements.
const (
	Kubernetes = "v1.37.1"
	Major      = "1"
	Minor      = "37"
)

// Set by the linker; see the Makefile.
var (
	Skiff  = "0.1.0"
	Commit = "unknown"
	Date   = "1970-01-01T00:00:00Z"
)

// Git is the version in the form that kubectl and tools parse.
func Git() string { return Kubernetes + "+skiff-" + Skiff }

// Info is what /version answers.
func Info() version.Info {
	return version.Info{
		Major: Major, Minor: Minor, EmulationMajor: Major, EmulationMinor: Minor,
		MinCompatibilityMajor: Major, MinCompatibilityMinor: "36",
		GitVersion: Git(), GitCommit: Commit, GitTreeState: "clean", BuildDate: Date,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}
