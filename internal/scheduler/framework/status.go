package framework

// Code says how final a rejection is.
type Code int

const (
	// Unschedulable: removing other pods could help.
	Unschedulable Code = iota
	// Unresolvable: nothing that happens to other pods can help.
	// Upstream's name is UnschedulableAndUnresolvable.
	Unresolvable
)

// Status is why a plugin turned a pod away. It is shared and read-only.
type Status struct {
	Code Code
	// Reasons are counted over all nodes and shown to people:
	// "0/5 nodes are available: 2 Insufficient cpu, 3 Too many pods."
	Reasons []string
}

// Reject returns the status for reasons that other pods' going could lift.
func Reject(reasons ...string) *Status {
	return &Status{Code: Unschedulable, Reasons: reasons}
}

// RejectFinally returns the status for reasons that no other pod's going
// can lift.
func RejectFinally(reasons ...string) *Status {
	return &Status{Code: Unresolvable, Reasons: reasons}
}
