package images

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	suite "k8s.io/kubernetes/test/utils/image"
)

// leftOut are the suite's images that are not made, with the reason.
var leftOut = map[suite.ImageID]string{
	suite.AgnhostPrivate:          "lies in a registry that needs an account; its specs are no conformance ones",
	suite.AppArmorLoader:          "AppArmor specs are no conformance ones",
	suite.DistrolessIptables:      "one spec of kube-proxy's, no conformance one",
	suite.InvalidRegistryImage:    "must not exist",
	suite.NFSProvisioner:          "storage drivers are no conformance",
	suite.NodePerfNpbEp:           "node performance is no conformance",
	suite.NodePerfNpbIs:           "node performance is no conformance",
	suite.NodePerfPytorchWideDeep: "node performance is no conformance",
	suite.Perl:                    "no spec uses it",
	suite.VolumeNFSServer:         "storage drivers are no conformance",
	suite.VolumeISCSIServer:       "storage drivers are no conformance",
	suite.SampleDevicePlugin:      "device plugins are tested by the node suite",
}

func names() []string {
	var all []string
	for _, r := range recipes() {
		all = append(all, r.names...)
	}
	return all
}

func TestEveryImageOfTheSuiteIsMadeOrLeftOutWithAReason(t *testing.T) {
	made := names()
	for id, config := range suite.GetImageConfigs() {
		name := config.GetE2EImage()
		if id > suite.SampleDevicePlugin {
			continue // the nameless ones are of storage drivers, whose specs are no conformance ones
		}
		_, out := leftOut[id]
		if out == slices.Contains(made, name) {
			t.Errorf("%s is made and left out, or neither", name)
		}
	}
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range names() {
		if seen[n] {
			t.Errorf("%s is made twice", n)
		}
		seen[n] = true
	}
}

func TestVersionsAreThoseOfTheModules(t *testing.T) {
	minor := tag(suite.GetE2EImage(suite.Etcd))
	minor = minor[:strings.LastIndex(minor, ".")+1]
	for module, want := range map[string]string{
		"programs/coredns/go.mod": "github.com/coredns/coredns " + tag(CoreDNS),
		"../parts/go.mod":         "go.etcd.io/etcd/server/v3 v" + minor,
	} {
		data, err := os.ReadFile(module)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), want) {
			t.Errorf("%s does not require %q, which the image's name says", module, want)
		}
	}
}

func TestReadmeNamesEveryImage(t *testing.T) {
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names() {
		_, path, _ := strings.Cut(n, "/")
		if !strings.Contains(string(data), "`"+strings.TrimPrefix(path, "e2e-test-images/")+"`") {
			t.Errorf("README.md has no row for %s", n)
		}
	}
}

func TestChooseKnowsItsNames(t *testing.T) {
	chosen, err := choose([]string{"nginx", "pause"})
	if err != nil || len(chosen) != 2 || chosen[0].name != "nginx" {
		t.Errorf("%v, %v", chosen, err)
	}
	if _, err := choose([]string{"httpd"}); err == nil {
		t.Error("an archive that is not made was found")
	}
}

func TestFakeRegistryLayout(t *testing.T) {
	image, err := assemble(v1.Config{}, "1", sample(t))
	if err != nil {
		t.Fatal(err)
	}
	files := tree{}
	if err := files.registry("var/registry/pause", "testing", image); err != nil {
		t.Fatal(err)
	}
	at := func(kind, digest string) []byte {
		hex := strings.TrimPrefix(digest, "sha256:")
		n, ok := files["var/registry/pause/"+kind+"/sha256/"+hex[:2]+"/"+hex+"/data"]
		if !ok {
			t.Fatalf("the %s have no %s", kind, digest)
		}
		return n.data
	}
	var index v1.IndexManifest
	digest := strings.TrimSpace(string(files["var/registry/pause/manifests/testing"].data))
	if err := json.Unmarshal(at("manifests", digest), &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("the index: %v, %v", index, err)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(at("manifests", index.Manifests[0].Digest.String()), &manifest); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(manifest.Layers, manifest.Config) {
		if data := at("blobs", d.Digest.String()); int64(len(data)) != d.Size {
			t.Errorf("blob %s has %d bytes, want %d", d.Digest, len(data), d.Size)
		}
	}
}

func TestKeyFollowsTheSources(t *testing.T) {
	dir := t.TempDir()
	module := filepath.Join(dir, "test", "conformance")
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := func() string {
		t.Helper()
		k, err := sourceKey(module)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write("test/conformance/go.mod", "module x\n")
	write("test/conformance/parts/go.mod", "module z\n")
	write("test/conformance/images/recipes.go", "package images\n")
	write("internal/runtime/carried/pause/pause.c", "")
	first := key()
	write("test/conformance/images/README.md", "words")
	write("test/conformance/images/recipes_test.go", "package images\n")
	if key() != first {
		t.Error("words and tests make images anew")
	}
	write("test/conformance/images/programs/coredns/go.mod", "module y\n")
	if key() == first {
		t.Error("another CoreDNS leaves the images as they are")
	}
}

func TestArchiveIsMadeOnce(t *testing.T) {
	calls := 0
	w := &workshop{cache: t.TempDir(), key: "1", log: io.Discard}
	r := recipe{name: "one", names: []string{"example.com/one:1"}, make: func(context.Context, *workshop) ([]v1.Image, error) {
		calls++
		return one(assemble(v1.Config{}, "1", sample(t)))
	}}
	for _, step := range []struct {
		key  string
		want int
	}{{"1", 1}, {"1", 1}, {"2", 2}, {"2", 2}} {
		w.key = step.key
		if _, err := w.archive(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if calls != step.want {
			t.Errorf("with the key %s it was made %d times, want %d", step.key, calls, step.want)
		}
	}
}

func TestLockLetsOneRunIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := lock(ended, file); !errors.Is(err, context.Canceled) {
		t.Errorf("a second run that was called off: %v", err)
	}
	unlock()
	again, err := lock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestLinksStayInTheSystem(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"usr/bin", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/bin/tool"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"bin": "usr/bin", "etc/tool": "/bin/tool", "etc/up": "../../../bin/tool", "etc/loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root := sysroot(dir)
	got := map[string]string{}
	for _, p := range []string{"/bin/tool", "/etc/tool", "/etc/up"} {
		file, err := root.resolve(p)
		if err != nil {
			t.Error(err)
		}
		got[p] = strings.TrimPrefix(file, dir)
	}
	want := map[string]string{"/bin/tool": "/usr/bin/tool", "/etc/tool": "/usr/bin/tool", "/etc/up": "/usr/bin/tool"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("resolved paths (-want +got):\n%s", diff)
	}
	for _, p := range []string{"/etc/loop", "/etc/none"} {
		if _, err := root.resolve(p); err == nil {
			t.Errorf("%s leads somewhere", p)
		}
	}
}

func TestLibrariesComeAlong(t *testing.T) {
	const program = "/bin/cat"
	if _, err := linkedTo(program); err != nil {
		t.Skipf("this machine has no %s to look at: %v", program, err)
	}
	needed, err := linkedTo(program)
	if err != nil || len(needed) < 2 {
		t.Skipf("%s is not linked dynamically: %v, %v", program, needed, err)
	}
	installed := tree{}
	if err := sysroot("/").install(installed, program); err != nil {
		t.Skipf("this machine keeps its libraries elsewhere than Debian: %v", err)
	}
	for _, name := range needed {
		if !slices.ContainsFunc(keys(installed), func(p string) bool { return filepath.Base(p) == filepath.Base(name) }) {
			t.Errorf("%s is missing beside %s", name, program)
		}
	}
}

func keys(t tree) []string {
	var all []string
	for p := range t {
		all = append(all, p)
	}
	return all
}
