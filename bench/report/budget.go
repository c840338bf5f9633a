package main

import "skiff.dev/skiff/bench/measure"

// budget is what a figure must keep to (ARCHITECTURE.md).
type budget struct {
	text string
	key  string
	unit string
	// limit may not be exceeded, or, with atLeast, must be reached.
	limit   float64
	atLeast bool
}

// budgets are those of the architecture, in its order.
var budgets = []budget{
	{text: "`skiff server` start → /readyz, fresh data directory", key: "startup.fresh", unit: "s", limit: 0.5},
	{text: "restart with 10,000 objects → /readyz", key: "startup.restart", unit: "s", limit: 1},
	{text: "restart after kill -9 with 10,000 objects → /readyz", key: "startup.killed", unit: "s", limit: 1},
	{text: "start → node Ready", key: "startup.node", unit: "s", limit: 2},
	{text: "start → first pod Running, image present", key: "startup.pod", unit: "s", limit: 3},
	{text: "idle resident memory, server + node + DNS + proxy, 20 pods", key: "idle.node.rss", unit: "MiB", limit: 80},
	{text: "idle memory with the container runtime (PSS: shims share their text)", key: "idle.all.pss", unit: "MiB", limit: 150},
	{text: "idle CPU, of one core, 20 pods", key: "idle.node.cpu", unit: "%", limit: 1},
	{text: "idle disk writes, 20 pods", key: "idle.node.written", unit: "KiB/s", limit: 20},
	{text: "binary, compressed, with runtime and kubectl", key: "binary.packed", unit: "MiB", limit: 70},
	{text: "write path: update over HTTPS, one client, by raw etcd put over gRPC", key: "write.ratio", unit: "×", limit: 1.3},
	{text: "scheduling through the API, 5,000 nodes, 10,000 pods, creation included", key: "schedule.rate", unit: "pod/s", limit: 5000, atLeast: true},
	{text: "pod create → Running, one at a time, median", key: "pods.single.p50", unit: "s", limit: 0.15},
	{text: "pod create → Running, one at a time, 99th percentile", key: "pods.single.p99", unit: "s", limit: 0.3},
	{text: "pod create → Running, 50 at once, median", key: "pods.burst.p50", unit: "s", limit: 1.5},
}

// judge returns what was measured and the verdict.
func (b budget) judge(figures map[string]measure.Result) (measured, verdict string) {
	x, ok := figures[b.key]
	switch {
	case !ok:
		return "—", "not measured"
	case b.atLeast == (x.Value >= b.limit) || x.Value == b.limit:
		verdict = "holds"
	default:
		verdict = "**missed**"
	}
	return measure.Format(x.Value, b.unit), verdict
}
