package verbs

import (
	"context"
	"errors"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff.dev/skiff/internal/store"
)

var needsVersion = field.ErrorList{
	field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update"),
}

// unavailable turns an error of the store into one of the API.
func unavailable(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError("the request did not complete in time", 0)
	case errors.Is(err, store.ErrNoSpace):
		return apierrors.NewInternalError(fmt.Errorf("the store is full: free space on its disk or raise its quota: %w", err))
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the store does not answer: %v", err))
	default:
		return apierrors.NewInternalError(err)
	}
}

func validateScale(s *autoscalingv1.Scale) error {
	if s.Spec.Replicas >= 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: "autoscaling", Kind: "Scale"}, s.Name, field.ErrorList{
		field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, apivalidation.IsNegativeErrorMsg),
	})
}
