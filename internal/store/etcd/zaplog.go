package etcd

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger gives etcd a logger that writes to slog. etcd is chatty, so its
// information is debugging to us. Where etcd would end or panic the process,
// fail is told and only etcd's goroutine ends.
func zapLogger(log *slog.Logger, fail func(error)) *zap.Logger {
	core := &slogCore{log: log.With("component", "etcd")}
	stop := &stopHook{fail: fail}
	return zap.New(core, zap.WithFatalHook(stop), zap.WithPanicHook(stop))
}

// slogCore is a zapcore.Core over slog.
type slogCore struct {
	log *slog.Logger
}

func slogLevel(level zapcore.Level) slog.Level {
	switch level {
	case zapcore.DebugLevel, zapcore.InfoLevel:
		return slog.LevelDebug
	case zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

// Enabled implements zapcore.LevelEnabler.
func (c *slogCore) Enabled(level zapcore.Level) bool {
	return level > zapcore.DebugLevel && c.log.Enabled(context.Background(), slogLevel(level))
}

// With implements zapcore.Core.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log.With(attrs(fields)...)}
}

// Check implements zapcore.Core.
func (c *slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	switch entry.Message {
	case "Failed to detect schema version", "failed to update storage version":
		// etcd asks before its first commit to the database file and then again until it succeeds.
		return checked
	case "failed to publish local member to cluster through raft":
		// So it goes until the first entries of the log are applied, hundreds of times over.
		return checked
	}
	if strings.Contains(entry.Message, "cannot campaign at term") {
		return checked // elect tries again
	}
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c *slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	c.log.Log(context.Background(), slogLevel(entry.Level), entry.Message, attrs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *slogCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]any, 0, 2*len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		out = append(out, f.Key, enc.Fields[f.Key])
	}
	return out
}

// stopHook ends a goroutine of etcd's that cannot go on.
type stopHook struct {
	fail func(error)
}

// OnWrite implements zapcore.CheckWriteHook.
func (h *stopHook) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(entry.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = &fatalError{message: entry.Message, cause: cause}
		}
	}
	h.fail(err)
	runtime.Goexit()
}

// fatalError is what etcd gave up over.
type fatalError struct {
	message string
	cause   error
}

func (e *fatalError) Error() string { return e.message + ": " + e.cause.Error() }
func (e *fatalError) Unwrap() error { return e.cause }
