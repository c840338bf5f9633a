package observe

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"
)

// What libraries complain about is seen by who asks for it, and nowhere else.
func TestLibrariesAreQuiet(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	QuietLibraries()
	defer klog.ClearLogger()
	for level, want := range map[string]bool{"info": false, "debug": true} {
		var out bytes.Buffer
		logger, err := Logger(&out, level)
		if err != nil {
			t.Fatal(err)
		}
		slog.SetDefault(logger)
		utilruntime.HandleErrorWithLogger(klog.Background().WithValues("pod", "web"), errors.New("closed pipe"), "Copying stdin failed")
		klog.Warning("old style")
		klog.V(4).Info("never")
		for _, text := range []string{`level=DEBUG msg="Copying stdin failed" pod=web`, `err="closed pipe"`, `level=DEBUG msg="old style"`} {
			if got := strings.Contains(out.String(), text); got != want {
				t.Errorf("at %s, %q is there: %v\n%s", level, text, got, &out)
			}
		}
		if strings.Contains(out.String(), "never") {
			t.Errorf("at %s: %s", level, &out)
		}
	}
}
