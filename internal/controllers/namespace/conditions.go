package namespace

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions returns the conditions that tell what keeps a namespace.
func conditions(was []corev1.NamespaceCondition, seen contents, now time.Time) []corev1.NamespaceCondition {
	list := slices.Clone(was)
	set := func(t corev1.NamespaceConditionType, bad bool, reason, message, goodReason, goodMessage string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
		if !bad {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, goodReason, goodMessage
		}
		i := slices.IndexFunc(list, func(have corev1.NamespaceCondition) bool { return have.Type == t })
		switch {
		case i < 0:
			list = append(list, c)
		case list[i].Status == c.Status:
			list[i].Reason, list[i].Message = c.Reason, c.Message
		default:
			list[i] = c
		}
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, seen.discovery != nil,
		"DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups, %d failing: %v", count(seen.discovery), seen.discovery),
		"ResourcesDiscovered", "All resources successfully discovered")
	// Resources come parsed: nothing can fail there.
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "",
		"ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(seen.failed) > 0,
		"ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", len(seen.failed), errors.Join(seen.failed...)),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(seen.remaining) > 0,
		"SomeResourcesRemain", "Some resources are remaining: "+remainingText(seen),
		"ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(seen.finalizers) > 0,
		"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+finalizersText(seen),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return list
}

// count tells how many errors have been joined into err.
func count(err error) int {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return len(joined.Unwrap())
	}
	return 1
}

func remainingText(seen contents) string {
	var parts []string
	for gr, n := range seen.remaining {
		parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances", gr.Resource, gr.Group, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func finalizersText(seen contents) string {
	var parts []string
	for _, f := range slices.Sorted(maps.Keys(seen.finalizers)) {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", f, seen.finalizers[f]))
	}
	return strings.Join(parts, ", ")
}
