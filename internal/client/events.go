package client

import "skiff.dev/skiff/internal/meta"

// Events reports what happened to an object, for people: kubectl describe and
// kubectl get events. Reporting never blocks and never fails the reporter;
// repeated events are counted rather than written again.
type Events interface {
	// Normal and Warning report about obj; reason is a CamelCase word of the
	// vocabulary that users know, the note is formatted with args.
	Normal(obj meta.Object, reason, note string, args ...any)
	Warning(obj meta.Object, reason, note string, args ...any)
}
