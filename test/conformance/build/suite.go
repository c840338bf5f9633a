//go:build suite

package build

// The suite is built as its package's test; what that test imports is part of this module's requirements.
// Nothing sets the build tag.
import _ "k8s.io/kubernetes/test/e2e"
