package images

import (
	"context"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	suite "k8s.io/kubernetes/test/utils/image"
)

// CoreDNS is the image of a cluster's DNS, in the version that kubeadm 1.37 deploys. No spec names it.
const CoreDNS = "registry.k8s.io/coredns/coredns:v1.14.6"

// Pause is the image of pod sandboxes, which specs use as well; containerd's default is the same.
func Pause() string { return suite.GetE2EImage(suite.Pause) }

// recipe says how the images of one archive are made; make returns as many as it has names.
type recipe struct {
	name  string
	names []string
	make  func(context.Context, *workshop) ([]v1.Image, error)
}

// recipes is the list of archives. Images that share most of their files share an archive.
func recipes() []recipe {
	of := func(ids ...suite.ImageID) []string {
		var names []string
		for _, id := range ids {
			names = append(names, suite.GetE2EImage(id))
		}
		return names
	}
	return []recipe{
		{"pause", of(suite.Pause), makePause},
		{"coredns", []string{CoreDNS}, makeCoreDNS},
		{"busybox", of(suite.BusyBox), makeBusyBox},
		{"agnhost", of(suite.Agnhost, suite.AgnhostPrev, suite.Kitten, suite.Nautilus), makeAgnhost},
		{"nginx", of(suite.Nginx, suite.NginxNew), makeNginx},
		{"glibc-dns-testing", of(suite.GlibcDnsTesting), makeDNSTesting},
		{"nonewprivs", of(suite.Nonewprivs), makeNoNewPrivs},
		{"nonroot", of(suite.NonRoot), makeNonRoot},
		{"etcd", of(suite.Etcd), makeEtcd},
		{"sample-apiserver", of(suite.APIServer), makeSampleAPIServer},
		{"ipc-utils", of(suite.IpcUtils), makeIPCUtils},
		{"regression-issue-74839", of(suite.RegressionIssue74839), makeRegression74839},
		{"resource-consumer", of(suite.ResourceConsumer), makeResourceConsumer},
	}
}

// tag is the part of an image's name behind the colon.
func tag(name string) string { return name[strings.LastIndex(name, ":")+1:] }

// one wraps an image as a recipe returns it.
func one(image v1.Image, err error) ([]v1.Image, error) { return []v1.Image{image}, err }

// port makes the set of exposed ports.
func ports(all ...string) map[string]struct{} {
	set := map[string]struct{}{}
	for _, p := range all {
		set[p] = struct{}{}
	}
	return set
}

// osRelease says what this is, and names what it stands in for: a spec looks for that name.
const osRelease = `NAME="stand-in for Alpine Linux"
ID=skiff-stand-in
VERSION_ID=12
PRETTY_NAME="skiff's stand-in for Alpine Linux, of packages of Debian 12"
`

// skeleton is what a system has besides its programs: accounts, and the directories that all expect.
func skeleton() tree {
	t := tree{}
	t.dirs("bin", "dev", "etc", "home", "lib", "mnt", "proc", "run", "sbin", "srv", "sys", "usr/bin", "usr/lib",
		"usr/local/bin", "usr/local/sbin", "usr/sbin", "var/log", "var/lib", "var/cache", "var/spool")
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	t.dir("var/tmp", 0o1777)
	t.link("var/run", "/run")
	t.text("etc/passwd", strings.Join([]string{
		"root:x:0:0:root:/root:/bin/sh", "daemon:x:1:1:daemon:/usr/sbin:/bin/false", "bin:x:2:2:bin:/bin:/bin/false",
		"sys:x:3:3:sys:/dev:/bin/false", "sync:x:4:100:sync:/bin:/bin/sync", "mail:x:8:8:mail:/var/spool/mail:/bin/false",
		"www-data:x:33:33:www-data:/var/www:/bin/false", "nobody:x:65534:65534:nobody:/home:/bin/false", "",
	}, "\n"), 0o644)
	t.text("etc/group", strings.Join([]string{
		"root:x:0:", "daemon:x:1:", "bin:x:2:", "sys:x:3:", "adm:x:4:", "tty:x:5:", "disk:x:6:", "lp:x:7:", "mail:x:8:",
		"wheel:x:10:root", "www-data:x:33:", "users:x:100:", "nogroup:x:65534:", "",
	}, "\n"), 0o644)
	t.text("etc/os-release", osRelease, 0o644)
	t.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n", 0o644)
	return t
}

// append to one of the account files of a tree.
func (t tree) account(file, line string) {
	n := t[file]
	n.data = append(append([]byte(nil), n.data...), line+"\n"...)
	t[file] = n
}

// system is a skeleton with busybox under all its names, and bash. sh is a program that chooses between the
// two shells, see programs/sh.
func (w *workshop) system(ctx context.Context) (tree, sysroot, error) {
	root, err := w.sysroot(ctx)
	if err != nil {
		return nil, "", err
	}
	t := skeleton()
	if err := root.installAs(t, "/bin/busybox", "/bin/busybox"); err != nil {
		return nil, "", err
	}
	applets, err := root.applets(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, a := range applets {
		if _, taken := t[clean(a)]; !taken {
			t.link(a, "/bin/busybox")
		}
	}
	if err := root.installAs(t, "/bin/bash-static", "/bin/bash"); err != nil {
		return nil, "", err
	}
	shell, err := w.shell(ctx)
	if err != nil {
		return nil, "", err
	}
	return t, root, t.copy("bin/sh", shell)
}
