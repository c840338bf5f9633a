package app

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"skiff.dev/skiff/internal/controllers"
)

func TestControllerNames(t *testing.T) {
	for _, test := range []struct {
		flag string
		name string
		want bool
	}{
		{"*", "deployment", true}, {"*,-deployment", "deployment", false}, {"*,-deployment-controller", "deployment", false},
		{"deployment-controller", "deployment", true}, {"deployment", "replicaset", false}, {"", "deployment", false},
		{"*", "token-cleaner", false}, {"*", "bootstrap-signer", false}, {"*,-token-cleaner", "token-cleaner", false},
		{"*,bootstrapsigner,tokencleaner", "token-cleaner", true}, {"*,bootstrapsigner,tokencleaner", "bootstrap-signer", true},
		{"*,bootstrap-signer-controller", "bootstrap-signer", true}, {"token-cleaner", "token-cleaner", true},
		{"podgc", "pod-garbage-collector", true}, {"*,-csrsigning", "certificatesigningrequest-signing", false},
		{"*,-csrsigning", "certificatesigningrequest-approving", true}, {"endpoint,-endpoint", "endpoints", true}, {"-endpoint,endpoints", "endpoints", false},
	} {
		if got := wantsController(strings.Split(test.flag, ","), test.name); got != test.want {
			t.Errorf("--controllers=%s: %s %v", test.flag, test.name, got)
		}
	}
}

// Ours are all among upstream's, or nobody could name them.
func TestEveryControllerIsKnown(t *testing.T) {
	every, err := everyController()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range controllers.Names(every) {
		if u, ok := controllerNamed(name); !ok || u.ours() != name {
			t.Errorf("%s is no controller of upstream's", name)
		}
	}
	var names []string
	for _, u := range upstreamControllers {
		names = append(names, u.name)
		if u.older != "" && u.older != u.ours() {
			names = append(names, u.older)
		}
	}
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("two controllers have one name: %v", names)
	}
}

func TestControllersAreChecked(t *testing.T) {
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)
	served := []string{"deployment", "token-cleaner"}
	check := func(flag string) (string, error) {
		log.Reset()
		err := checkControllers(strings.Split(flag, ","), served)
		return log.String(), err
	}
	for _, quiet := range []string{"*", "*,-ttl", "*,-selinux-warning-controller", "*,tokencleaner,deployment-controller"} {
		if said, err := check(quiet); err != nil || said != "" {
			t.Errorf("%s: %v %s", quiet, err, said)
		}
	}
	if said, err := check("*,attachdetach"); err != nil || !strings.Contains(said, "not served") || !strings.Contains(said, "persistentvolume-attach-detach-controller") {
		t.Errorf("%v %s", err, said)
	}
	for _, wrong := range []string{"*,-no-such", "no-such", "*,-"} {
		if _, err := check(wrong); err == nil || !strings.Contains(err.Error(), "there is no controller") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
