package core

import "skiff.dev/skiff/internal/resources/events"

// Event is v1 Event, which package events defines beside its twin in the group
// events.k8s.io.
var Event = events.Core(events.DefaultTTL)
