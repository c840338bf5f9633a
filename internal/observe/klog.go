package observe

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// QuietLibraries sends what Kubernetes' libraries log to the process's own log,
// at level debug: they tell of errors that their callers are told of too, such
// as a stream that ended with its container. It is called once, before
// anything uses such a library.
func QuietLibraries() { klog.SetSlogLogger(slog.New(quiet{})) }

// quiet hands records to the handler that is the default when they come.
type quiet struct {
	with func(slog.Handler) slog.Handler // attributes and groups; nil for none
}

func (q quiet) next() slog.Handler {
	h := slog.Default().Handler()
	if q.with != nil {
		h = q.with(h)
	}
	return h
}

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return slog.Default().Handler().Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler. Errors come here without being asked whether
// anybody wants them.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if !q.Enabled(ctx, r.Level) {
		return nil
	}
	r.Level = slog.LevelDebug
	return q.next().Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return q.then(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler {
	return q.then(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (q quiet) then(f func(slog.Handler) slog.Handler) slog.Handler {
	before := q.with
	return quiet{func(h slog.Handler) slog.Handler {
		if before != nil {
			h = before(h)
		}
		return f(h)
	}}
}
