// Package observe holds what is seen of a running skiff from outside: logs,
// metrics, progress on the terminal.
package observe

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Logger returns a logger that writes text lines to w, at level and above.
func Logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, fmt.Errorf("--log-level: %q is not debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}
