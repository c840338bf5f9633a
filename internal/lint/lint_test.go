// Package lint holds the repository's own rules as tests.
package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "skiff.dev/skiff/"

// A file is one parsed Go file of the module.
type file struct {
	path  string // relative to the repository
	test  bool
	lines int
	ast   *ast.File
	set   *token.FileSet
}

func (f *file) dir() string { return path.Dir(f.path) }

// repository parses every Go file, but those of nested modules.
func repository(t *testing.T) []*file {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []*file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && rel != "." || rel == "bin" || rel == "test/conformance" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, &file{
			path: filepath.ToSlash(rel), test: strings.HasSuffix(rel, "_test.go"),
			lines: set.File(parsed.Pos()).LineCount(), ast: parsed, set: set,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 100 {
		t.Fatalf("found only %d files: looking in the wrong place", len(files))
	}
	return files
}

// floors are the packages below internal/ by floor; a package is on the floor
// of its longest prefix here.
var floors = map[string]int{
	"observe": 0, "version": 0, "pki": 0, "resident": 0, "crew": 0, "http2": 1,
	"scheme": 1, "meta": 1, "pod": 1, "node": 1, "service": 1, "workload": 1, "check": 1,
	"patch": 1, "fieldmanager": 1, "cel": 1, "nftables": 1, "cgroup": 1, "mount": 1, "netlink": 1, "image": 1,
	"store": 2, "watchcache": 2,
	"resource": 3, "resources": 3, "apiserver": 3,
	"client": 4, "controller": 4, "controllers": 4, "leaderelection": 4, "scheduler": 4, "kubelet": 4,
	"proxy": 4, "cni": 4, "dns": 4, "runtime": 4,
	"app": 5, "testing": 5, "lint": 5,
}

// together lists the floor-4 packages that others of that floor may import:
// what all clients of the API are made with.
var together = map[string]string{
	"client":         "every component talks to the API through it",
	"controller":     "the frame of every controller",
	"leaderelection": "shared by controllers and scheduler",
}

// exceptions are single imports that the floors forbid, each with its reason.
var exceptions = map[string]string{
	"client/inprocess -> apiserver": "the in-process transport calls the verbs",
}

func room(imported string) string {
	rest, ok := strings.CutPrefix(imported, module+"internal/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

func TestImportsGoDownTheFloors(t *testing.T) {
	for _, f := range repository(t) {
		from := room(module + f.path)
		if from == "" || f.test {
			continue
		}
		floor, known := floors[from]
		if !known {
			t.Errorf("%s: room %q is not in the list of floors", f.path, from)
			continue
		}
		for _, imp := range f.ast.Imports {
			to := room(strings.Trim(imp.Path.Value, `"`))
			if to == "" || to == from {
				continue
			}
			below, known := floors[to]
			switch {
			case !known:
				t.Errorf("%s imports unknown room %q", f.path, to)
			case below < floor, floor == 5:
			case below == floor && floor < 4:
				// Rooms of one floor below the fourth build on each other; Go
				// itself refuses cycles.
			case below == floor && together[to] != "":
			default:
				t.Errorf("%s imports %s: floor %d must not know floor %d (see ARCHITECTURE.md)", f.path, to, floor, below)
			}
		}
	}
}

// forbidden imports, with the reason.
var forbidden = map[string]string{
	"k8s.io/kubernetes":                   "the product is written anew; only test/conformance builds upstream",
	"k8s.io/apiserver/pkg/server":         "the API server is what this project does itself",
	"k8s.io/apiserver/pkg/storage":        "the API server is what this project does itself",
	"k8s.io/apiserver/pkg/registry":       "the API server is what this project does itself",
	"k8s.io/apiserver/pkg/endpoints":      "the API server is what this project does itself",
	"k8s.io/apiserver/pkg/authentication": "the API server is what this project does itself",
	"k8s.io/apiserver/pkg/authorization":  "the API server is what this project does itself",
	"k8s.io/utils/clock":                  "time is virtual in tests by testing/synctest",
	"github.com/stretchr/testify":         "tests compare with go-cmp",
}

func TestForbiddenImports(t *testing.T) {
	for _, f := range repository(t) {
		for _, imp := range f.ast.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			for bad, why := range forbidden {
				if p == bad || strings.HasPrefix(p, bad+"/") {
					t.Errorf("%s imports %s: %s", f.path, p, why)
				}
			}
		}
	}
}

func TestPackagesHaveAComment(t *testing.T) {
	documented, all := map[string]bool{}, map[string]bool{}
	for _, f := range repository(t) {
		if f.test && f.dir() != "internal/lint" {
			continue
		}
		all[f.dir()] = true
		if f.ast.Doc != nil && (strings.HasPrefix(f.ast.Doc.Text(), "Package ") || strings.HasPrefix(f.ast.Doc.Text(), "Command ")) {
			documented[f.dir()] = true
		}
	}
	for dir := range all {
		if !documented[dir] {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

const (
	maxFileLines     = 1000
	maxFunctionLines = 150
)

// longer lists what may exceed the caps, with the reason.
var longer = map[string]string{}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, f := range repository(t) {
		if f.lines > maxFileLines && longer[f.path] == "" {
			t.Errorf("%s has %d lines; the cap is %d", f.path, f.lines, maxFileLines)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			n := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1
			if name := f.path + ":" + fn.Name.Name; n > maxFunctionLines && longer[name] == "" {
				t.Errorf("%s has %d lines; the cap is %d", name, n, maxFunctionLines)
			}
		}
	}
}

// nouns that say nothing.
var vague = []string{"util", "utils", "common", "helpers", "helper", "types", "misc", "base"}

func TestPackageNamesSaySomething(t *testing.T) {
	for _, f := range repository(t) {
		for _, v := range vague {
			if f.ast.Name.Name == v {
				t.Errorf("%s: a package named %q says nothing", f.path, v)
			}
		}
	}
}

func TestNoInitAndNoExit(t *testing.T) {
	for _, f := range repository(t) {
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: registries are explicit lists", f.path)
			}
		}
		if f.ast.Name.Name == "main" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok && fmt.Sprint(call.X) == "os" && call.Sel.Name == "Exit" {
				t.Errorf("%s: exit outside main", f.set.Position(n.Pos()))
			}
			return true
		})
	}
}

func TestNothingIsLeftForLater(t *testing.T) {
	for _, f := range repository(t) {
		if strings.HasPrefix(f.path, "internal/lint/") {
			continue
		}
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				for _, mark := range []string{"TODO", "FIXME", "XXX", "HACK"} {
					if strings.Contains(c.Text, mark) {
						t.Errorf("%s: %s", f.set.Position(c.Pos()), c.Text)
					}
				}
			}
		}
	}
}
