package events

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// The limits of events.k8s.io/v1, which the core group's events do not have.
const (
	maxWord = 128  // reportingInstance, action, reason
	maxNote = 1024 // note
)

func validateNew(r *check.Report, e, old *eventsv1.Event) {
	validateNamespace(r.At("regarding", "namespace"), e.Regarding, e.Namespace)
	if at := r.At("reportingController"); at.RequiredString(e.ReportingController) {
		at.Each(e.ReportingController, validation.IsQualifiedName(e.ReportingController))
	}
	word(r.At("reportingInstance"), e.ReportingInstance)
	word(r.At("action"), e.Action)
	word(r.At("reason"), e.Reason)
	if len(e.Note) > maxNote {
		r.At("note").TooLong(maxNote)
	}
	check.OneOf(r.At("type"), e.Type, corev1.EventTypeNormal, corev1.EventTypeWarning)
	if old == nil {
		validateBirth(r, e)
		return
	}
	if s := e.Series; s != nil {
		if s.Count < 2 {
			r.At("series", "count").Invalid("", "should be at least 2")
		}
		if s.LastObservedTime.IsZero() {
			r.At("series", "lastObservedTime").Required("")
		}
	}
	validateChange(r, e, old)
}

func word(r *check.Report, s string) {
	if r.RequiredString(s) && len(s) > maxWord {
		r.TooLong(maxWord)
	}
}

// validateBirth: a new event has a time, and none of what older clients set.
func validateBirth(r *check.Report, e *eventsv1.Event) {
	if e.EventTime.IsZero() {
		r.At("eventTime").Required("")
	}
	if !e.DeprecatedFirstTimestamp.IsZero() {
		r.At("deprecatedFirstTimestamp").Invalid("", "needs to be unset")
	}
	if !e.DeprecatedLastTimestamp.IsZero() {
		r.At("deprecatedLastTimestamp").Invalid("", "needs to be unset")
	}
	if e.DeprecatedCount != 0 {
		r.At("deprecatedCount").Invalid("", "needs to be unset")
	}
	if e.DeprecatedSource != (corev1.EventSource{}) {
		r.At("deprecatedSource").Invalid("", "needs to be unset")
	}
}

// validateChange: only the series of an event changes.
func validateChange(r *check.Report, e, old *eventsv1.Event) {
	r.At("regarding").Immutable(e.Regarding, old.Regarding)
	r.At("reason").Immutable(e.Reason, old.Reason)
	r.At("note").Immutable(e.Note, old.Note)
	r.At("deprecatedSource").Immutable(e.DeprecatedSource, old.DeprecatedSource)
	r.At("deprecatedFirstTimestamp").Immutable(e.DeprecatedFirstTimestamp, old.DeprecatedFirstTimestamp)
	r.At("deprecatedLastTimestamp").Immutable(e.DeprecatedLastTimestamp, old.DeprecatedLastTimestamp)
	r.At("deprecatedCount").Immutable(e.DeprecatedCount, old.DeprecatedCount)
	r.At("type").Immutable(e.Type, old.Type)
	if !equality.Semantic.DeepEqual(e.EventTime, old.EventTime) {
		r.At("eventTime").Invalid(e.EventTime, "field is immutable")
	}
	r.At("action").Immutable(e.Action, old.Action)
	r.At("related").Immutable(e.Related, old.Related)
	r.At("reportingController").Immutable(e.ReportingController, old.ReportingController)
	r.At("reportingInstance").Immutable(e.ReportingInstance, old.ReportingInstance)
}
