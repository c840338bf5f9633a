// Package events defines events as both of their API groups show them: the core
// group and events.k8s.io. Both are one stored object, kept for a limited time.
package events

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// DefaultTTL is how long events are kept unless configured otherwise.
const DefaultTTL = time.Hour

// Core returns v1 Event, the form in which events are stored.
// https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
func Core(ttl time.Duration) *resource.Definition[*corev1.Event] {
	return &resource.Definition[*corev1.Event]{
		Name:     resource.Name{Version: "v1", Kind: "Event", Plural: "events", Short: []string{"ev"}},
		Upsert:   true,
		TTL:      func(*corev1.Event) time.Duration { return ttl },
		Validate: validateCore,
		Fields:   coreFields,
		Columns:  columns(func(e *corev1.Event) *corev1.Event { return e }),
	}
}

// New returns events.k8s.io/v1 Event. It shares the keys of the core group's
// events: what is stored there must be converted by FromCore when read through
// this definition, and by ToCore before it is written.
func New(ttl time.Duration) *resource.Definition[*eventsv1.Event] {
	return &resource.Definition[*eventsv1.Event]{
		Name:     resource.Name{Group: eventsv1.GroupName, Version: "v1", Kind: "Event", Plural: "events", Short: []string{"ev"}},
		StoreKey: "events",
		Upsert:   true,
		TTL:      func(*eventsv1.Event) time.Duration { return ttl },
		Validate: validateNew,
		Fields:   newFields,
		Columns:  columns(ToCore),
	}
}

// ToCore converts an event to the core group's form. Both share what they point
// to.
func ToCore(e *eventsv1.Event) *corev1.Event {
	c := &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     e.ObjectMeta,
		InvolvedObject: e.Regarding, Related: e.Related,
		Reason: e.Reason, Message: e.Note, Type: e.Type, Action: e.Action,
		Source: e.DeprecatedSource, Count: e.DeprecatedCount,
		FirstTimestamp: e.DeprecatedFirstTimestamp, LastTimestamp: e.DeprecatedLastTimestamp,
		EventTime: e.EventTime, ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
	}
	if e.Series != nil {
		c.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return c
}

// FromCore is the inverse of ToCore.
func FromCore(c *corev1.Event) *eventsv1.Event {
	e := &eventsv1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta: c.ObjectMeta,
		Regarding:  c.InvolvedObject, Related: c.Related,
		Reason: c.Reason, Note: c.Message, Type: c.Type, Action: c.Action,
		DeprecatedSource: c.Source, DeprecatedCount: c.Count,
		DeprecatedFirstTimestamp: c.FirstTimestamp, DeprecatedLastTimestamp: c.LastTimestamp,
		EventTime: c.EventTime, ReportingController: c.ReportingController, ReportingInstance: c.ReportingInstance,
	}
	if c.Series != nil {
		e.Series = &eventsv1.EventSeries{Count: c.Series.Count, LastObservedTime: c.Series.LastObservedTime}
	}
	return e
}

func coreFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

func newFields(e *eventsv1.Event) fields.Set {
	return fields.Set{
		"regarding.kind":            e.Regarding.Kind,
		"regarding.namespace":       e.Regarding.Namespace,
		"regarding.name":            e.Regarding.Name,
		"regarding.uid":             string(e.Regarding.UID),
		"regarding.apiVersion":      e.Regarding.APIVersion,
		"regarding.resourceVersion": e.Regarding.ResourceVersion,
		"regarding.fieldPath":       e.Regarding.FieldPath,
		"reason":                    e.Reason,
		"reportingController":       e.ReportingController,
		"type":                      e.Type,
	}
}

// columns are those of kubectl get events; the name comes last, and only with
// -o wide.
func columns[T meta.Object](core func(T) *corev1.Event) []resource.Column[T] {
	docs := corev1.Event{}.SwaggerDoc()
	return []resource.Column[T]{
		{Name: "Last Seen", Description: docs["lastTimestamp"], Value: func(o T) any { _, last := seen(core(o)); return since(last) }},
		{Name: "Type", Description: docs["type"], Value: func(o T) any { return core(o).Type }},
		{Name: "Reason", Description: docs["reason"], Value: func(o T) any { return core(o).Reason }},
		{Name: "Object", Description: docs["involvedObject"], Value: func(o T) any {
			e := core(o)
			return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
		}},
		{Name: "Subobject", Wide: true, Description: corev1.ObjectReference{}.SwaggerDoc()["fieldPath"],
			Value: func(o T) any { return core(o).InvolvedObject.FieldPath }},
		{Name: "Source", Wide: true, Description: docs["source"], Value: func(o T) any { return source(core(o)) }},
		{Name: "Message", Description: docs["message"], Value: func(o T) any { return strings.TrimSpace(core(o).Message) }},
		{Name: "First Seen", Wide: true, Description: docs["firstTimestamp"], Value: func(o T) any { first, _ := seen(core(o)); return since(first) }},
		{Name: "Count", Wide: true, Description: docs["count"], Value: func(o T) any { return count(core(o)) }},
		{Name: "Name", Format: "name", Wide: true, Description: metav1.ObjectMeta{}.SwaggerDoc()["name"], Value: func(o T) any { return core(o).Name }},
	}
}

// seen returns when the event happened first and last.
func seen(e *corev1.Event) (first, last metav1.Time) {
	first, last = e.FirstTimestamp, e.LastTimestamp
	if first.IsZero() {
		first = metav1.Time{Time: e.EventTime.Time}
	}
	if e.Series != nil {
		last = metav1.Time{Time: e.Series.LastObservedTime.Time}
	}
	if last.IsZero() {
		last = first
	}
	return first, last
}

func since(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

func source(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return component + ", " + host
}

func count(e *corev1.Event) int64 {
	switch {
	case e.Series != nil:
		return int64(e.Series.Count)
	case e.Count != 0:
		return int64(e.Count)
	}
	return 1
}

func validateCore(r *check.Report, e, _ *corev1.Event) {
	validateNamespace(r.At("involvedObject", "namespace"), e.InvolvedObject, e.Namespace)
}

// validateNamespace: an event is where its object is, or in the default
// namespace for an object that is nowhere.
func validateNamespace(r *check.Report, about corev1.ObjectReference, namespace string) {
	const text = "does not match event.namespace"
	if about.Namespace == "" {
		if namespace != "" && namespace != metav1.NamespaceDefault && namespace != metav1.NamespaceSystem {
			r.Invalid(about.Namespace, text)
		}
	} else if namespace != about.Namespace {
		r.Invalid(about.Namespace, text)
	}
}
