package images

import (
	"context"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	suite "k8s.io/kubernetes/test/utils/image"

	"skiff.dev/skiff/test/conformance/build"
)

func makePause(ctx context.Context, w *workshop) ([]v1.Image, error) {
	file, err := w.pause(ctx)
	if err != nil {
		return nil, err
	}
	t := tree{}
	if err := t.copy("pause", file); err != nil {
		return nil, err
	}
	return one(assemble(v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535", WorkingDir: "/"}, tag(Pause()), t))
}

// netBindService is the file capability that CoreDNS's program has, as the kernel keeps it (revision 2,
// effective; permitted: bit 10).
const netBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// coreDNS is a tree with CoreDNS's program.
func (w *workshop) coreDNS(ctx context.Context) (tree, error) {
	file, err := w.build(ctx, program{name: "coredns", module: "images/programs/coredns", pkg: "."})
	if err != nil {
		return nil, err
	}
	t := tree{}
	return t, t.copy("coredns", file)
}

func makeCoreDNS(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, err := w.coreDNS(ctx)
	if err != nil {
		return nil, err
	}
	n := t["coredns"]
	n.header.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": netBindService}
	t["coredns"] = n
	t.dir("tmp", 0o1777)
	t.text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n", 0o644)
	t.text("etc/group", "root:x:0:\nnonroot:x:65532:\n", 0o644)
	return one(assemble(v1.Config{
		Entrypoint: []string{"/coredns"}, User: "nonroot:nonroot", WorkingDir: "/", ExposedPorts: ports("53/tcp", "53/udp"),
	}, tag(CoreDNS), t))
}

func makeBusyBox(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, root, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	if err := root.install(t, "/usr/bin/getent"); err != nil {
		return nil, err
	}
	t.link("bin/env", "/bin/busybox")
	t.link("bin/sysctl", "/bin/busybox") // Debian's busybox has it in /sbin only
	return one(assemble(v1.Config{Cmd: []string{"sh"}}, tag(suite.GetE2EImage(suite.BusyBox)), t))
}

// makeDNSTesting makes the glibc-based prober of names; its original is a Debian with bind9-dnsutils.
func makeDNSTesting(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, root, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	for _, busybox := range []string{"bin/hostname", "usr/bin/nslookup"} {
		delete(t, busybox)
	}
	err = root.install(t, "/bin/dash", "/bin/hostname", "/usr/bin/getent", "/usr/bin/dig", "/usr/bin/host", "/usr/bin/nslookup")
	if err != nil {
		return nil, err
	}
	t.link("bin/sh", "/bin/dash")
	return one(assemble(v1.Config{Cmd: []string{"bash"}}, tag(suite.GetE2EImage(suite.GlibcDnsTesting)), t))
}

func makeNoNewPrivs(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, _, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	file, err := w.build(ctx, program{name: "nnp", pkg: "k8s.io/kubernetes/test/images/nonewprivs"})
	if err != nil {
		return nil, err
	}
	if err := t.copy("usr/local/bin/nnp", file); err != nil {
		return nil, err
	}
	n := t["usr/local/bin/nnp"]
	n.header.Mode |= 0o6000 // set-user-ID and set-group-ID: the spec is about them
	t["usr/local/bin/nnp"] = n
	return one(assemble(v1.Config{Cmd: []string{"nnp"}}, tag(suite.GetE2EImage(suite.Nonewprivs)), t))
}

func makeNonRoot(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, _, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	return one(assemble(v1.Config{Cmd: []string{"sh"}, User: "1234"}, tag(suite.GetE2EImage(suite.NonRoot)), t))
}

// makeEtcd takes the programs that the stock cluster runs itself.
func makeEtcd(ctx context.Context, w *workshop) ([]v1.Image, error) {
	programs := []string{"etcd", "etcdctl"}
	dir, err := build.Programs(ctx, w.source, w.log, programs...)
	if err != nil {
		return nil, err
	}
	t := tree{}
	t.dir("tmp", 0o1777)
	for _, name := range programs {
		if err := t.copy("usr/local/bin/"+name, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return one(assemble(v1.Config{
		Cmd: []string{"/usr/local/bin/etcd"}, WorkingDir: "/", ExposedPorts: ports("2379/tcp", "2380/tcp", "4001/tcp", "7001/tcp"),
	}, tag(suite.GetE2EImage(suite.Etcd)), t))
}

func makeSampleAPIServer(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, _, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	file, err := w.build(ctx, program{name: "sample-apiserver", pkg: "k8s.io/sample-apiserver"})
	if err != nil {
		return nil, err
	}
	if err := t.copy("sample-apiserver", file); err != nil {
		return nil, err
	}
	return one(assemble(v1.Config{Entrypoint: []string{"/sample-apiserver"}}, tag(suite.GetE2EImage(suite.APIServer)), t))
}

func makeIPCUtils(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, root, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	if err := root.install(t, "/usr/bin/ipcs", "/usr/bin/ipcmk", "/usr/bin/ipcrm"); err != nil {
		return nil, err
	}
	return one(assemble(v1.Config{Cmd: []string{"sh"}}, tag(suite.GetE2EImage(suite.IpcUtils)), t))
}

func makeRegression74839(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, _, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	name := "regression-issue-74839"
	file, err := w.build(ctx, program{name: name, pkg: "k8s.io/kubernetes/test/images/" + name})
	if err != nil {
		return nil, err
	}
	if err := t.copy(name, file); err != nil {
		return nil, err
	}
	return one(assemble(v1.Config{Entrypoint: []string{"/" + name}}, tag(suite.GetE2EImage(suite.RegressionIssue74839)), t))
}

func makeResourceConsumer(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, root, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	if err := root.install(t, "/usr/bin/stress"); err != nil {
		return nil, err
	}
	base := "k8s.io/kubernetes/test/images/resource-consumer"
	for name, pkg := range map[string]string{"consumer": base, "consume-cpu": base + "/consume-cpu"} {
		file, err := w.build(ctx, program{name: name, pkg: pkg})
		if err != nil {
			return nil, err
		}
		if err := t.copy(name, file); err != nil {
			return nil, err
		}
	}
	return one(assemble(v1.Config{
		Entrypoint: []string{"/consumer"}, ExposedPorts: ports("8080/tcp"),
	}, tag(suite.GetE2EImage(suite.ResourceConsumer)), t))
}
