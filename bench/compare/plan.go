package main

// fairness says what is the same on both sides, and what is not.
const fairness = "`make bench-compare` (docs/testing.md) puts the same load on `skiff server` and on a cluster of upstream's own programs of the same version " +
	"(etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, containerd with runc, CoreDNS), part by part, in turns: skiff, " +
	"stock, skiff, stock. Only one of the two runs at a time, each time a fresh cluster of one pretended machine with all of this machine's " +
	"processors; the client runs beside it, is the same program for both, and takes its share of the processors, which wall times show. " +
	"Both wait for the disk on every write (etcd's fsync is on), serve TLS, authorize by Node and RBAC, and run the same images. " +
	"Stock components have their default settings, which limit what a client sends (kube-scheduler 50 requests/s, kube-controller-manager 20, " +
	"kubelet 50), except where a line says otherwise. CPU and memory of the API are those of kube-apiserver and etcd on one side, of the " +
	"whole `skiff server` process on the other, which includes controllers and scheduler.\n\n" +
	"Values are medians over the rounds, with the lowest and the highest. The ratio says how many times as much time, CPU or memory stock takes " +
	"as skiff, and for rates how many times as many skiff reaches: above 1 skiff does better. Ten times and more is bold."

// plan is the section's tables, in their order.
var plan = []table{
	{"Start-up", "Fresh data, certificates made before for stock and by itself for skiff. Each stock part starts as soon as what it needs is there: " +
		"etcd, API server and containerd at once, the others when /readyz answers. CPU is that of all processes on the machine until then.", []row{
		{part: "start", key: "startup.ready", text: "start to /readyz"},
		{part: "start", key: "startup.ready.cpu", text: "CPU until then"},
		{part: "start", key: "startup.node", text: "start to node Ready"},
		{part: "start", key: "startup.node.cpu", text: "CPU until then"},
	}},
	{"Idle", "20 pods, measured for a minute after two of settling. The control plane is kube-apiserver, etcd, kube-controller-manager and kube-scheduler; " +
		"in skiff's case the process that is also kubelet, proxy and DNS. Everything adds kubelet, kube-proxy, CoreDNS (one replica), containerd and its shims; " +
		"the pods' own processes are left out. PSS counts pages that several processes share once.", idle()},
	{"API operations", "ConfigMaps of 1 KB, each operation on 4,000 of them, 16 requests at a time.", operations()},
	{"Lists", "10,000 ConfigMaps of 1 KB in one answer, two requests at a time.", lists()},
	{"Watches", "200 changes of one object of 1 KB, each sent to 1,000 watchers over 11 connections.", watches()},
	{"Scheduling", "Pods are created over HTTPS, 64 requests at a time, on pretended nodes without kubelets: from the first creation to the last binding. " +
		"All processes of the control plane are charged. Both clusters are told --node-monitor-grace-period=1h, so that nobody notices that nodes are silent, and " +
		"have ranges of addresses for all nodes; the load begins when no node has changed for three seconds. " +
		"kube-controller-manager's limit is raised to 5,000 requests/s in all of these, so that it is done with the nodes before; kube-scheduler's where the line says so.", scheduling()},
	{"Pod start", "On a real node, image present: from the request to create a pod until its status says that it runs and is ready. " +
		"CPU is that of everything on the machine, control plane and pods included.", []row{
		{part: "pods", key: "pods.single.p50", text: "one at a time, median"},
		{part: "pods", key: "pods.single.p99", text: "one at a time, slowest"},
		{part: "pods", key: "pods.single.cpu", text: "one at a time, CPU per pod, started and removed"},
		{part: "pods", key: "pods.burst.p50", text: "50 at once, median"},
		{part: "pods", key: "pods.burst.p99", text: "50 at once, slowest"},
		{part: "pods", key: "pods.burst.cpu", text: "50 at once, CPU per pod, started"},
	}},
}

var media = []struct{ key, text string }{{"json", "JSON"}, {"protobuf", "protobuf"}}

func idle() (rows []row) {
	for _, who := range []struct{ key, text string }{{"control", "control plane"}, {"all", "everything"}} {
		for _, what := range []struct{ key, text string }{
			{"rss", "resident memory"}, {"pss", "memory, shared pages once (PSS)"}, {"cpu", "CPU, of one core"}, {"written", "written to disk"},
		} {
			rows = append(rows, row{part: "idle", key: "idle." + who.key + "." + what.key, text: who.text + ": " + what.text})
		}
	}
	return rows
}

func operations() (rows []row) {
	for _, m := range media {
		for _, verb := range []string{"create", "get", "update", "delete"} {
			rows = append(rows,
				row{part: "api", key: "api." + m.key + "." + verb + ".cpu", text: verb + ", " + m.text + ": CPU"},
				row{part: "api", key: "api." + m.key + "." + verb + ".p50", text: verb + ", " + m.text + ": wall time, median"})
		}
	}
	return append(rows, row{part: "api", key: "api.rss", text: "resident memory after it"})
}

func lists() (rows []row) {
	for _, m := range media {
		for _, verb := range []struct{ key, text string }{{"list", "consistent"}, {"list0", "resourceVersion=0"}} {
			rows = append(rows,
				row{part: "lists", key: "api." + m.key + "." + verb.key + ".cpu", text: verb.text + ", " + m.text + ": CPU"},
				row{part: "lists", key: "api." + m.key + "." + verb.key + ".p50", text: verb.text + ", " + m.text + ": wall time, median"})
		}
	}
	return append(rows, row{part: "lists", key: "api.rss", text: "resident memory after it"})
}

func watches() (rows []row) {
	for _, m := range media {
		rows = append(rows,
			row{part: "watch", key: "api." + m.key + ".watch.rate", text: m.text + ": events delivered", more: true},
			row{part: "watch", key: "api." + m.key + ".watch.cpu", text: m.text + ": CPU per event delivered"},
			row{part: "watch", key: "api." + m.key + ".watch.p50", text: m.text + ": request to arrival, median"},
			row{part: "watch", key: "api." + m.key + ".watch.p99", text: m.text + ": request to arrival, 99th percentile"},
			row{part: "watch", key: "api." + m.key + ".watch.resumed", text: m.text + ": streams ended by the server, opened again by the client"})
	}
	return append(rows, row{part: "watch", key: "api.rss", text: "resident memory after it"})
}

// schedules are the parts of scheduling.
var schedules = []struct{ part, text string }{
	{"schedule-1000", "10,000 pods on 1,000 nodes, kube-scheduler limited to 5,000 requests/s"},
	{"schedule-5000", "10,000 pods on 5,000 nodes, kube-scheduler limited to 5,000 requests/s"},
	{"schedule-default", "2,000 pods on 1,000 nodes, kube-scheduler with its default limit of 50 requests/s"},
}

func scheduling() (rows []row) {
	for _, s := range schedules {
		rows = append(rows,
			row{part: s.part, key: "schedule.rate", text: s.text + ": rate", more: true},
			row{part: s.part, key: "schedule.cpu", text: s.text + ": CPU per pod"},
			row{part: s.part, key: "schedule.rss", text: s.text + ": resident memory with all of them"})
	}
	return rows
}
