// Package patch applies the patch types of the API that do not need field
// ownership: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic
// merge patch. It is pure and works on JSON documents.
package patch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// MaxOperations is how many operations a JSON patch may have.
const MaxOperations = 10000

// growth caps what the "copy" operations of one patch may add, in bytes; a
// patch of a few hundred bytes could otherwise ask for gigabytes.
const growth = 3 << 20

// limitCopies sets the cap; the library has it as a variable of its own.
var limitCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = growth })

// Apply returns doc, the JSON of an object like shape, with the patch applied.
// The errors are those of the API: 400 for a patch that cannot be read, 413 for
// one that is too large, 422 for one that does not fit the document.
func Apply(pt types.PatchType, doc, patch []byte, shape runtime.Object) ([]byte, error) {
	switch pt {
	case types.JSONPatchType:
		return applyJSON(doc, patch)
	case types.MergePatchType:
		return applyMerge(doc, patch)
	case types.StrategicMergePatchType:
		return applyStrategic(doc, patch, shape)
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("unknown Content-Type header for patch: %s", pt))
	}
}

func applyJSON(doc, patch []byte) ([]byte, error) {
	ops, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if len(ops) > MaxOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", MaxOperations, len(ops)))
	}
	limitCopies()
	out, err := ops.Apply(doc)
	var grown *jsonpatch.AccumulatedCopySizeError
	if errors.As(err, &grown) {
		return nil, apierrors.NewRequestEntityTooLargeError(err.Error())
	}
	if err != nil {
		return nil, unprocessable(err)
	}
	return out, nil
}

func applyMerge(doc, patch []byte) ([]byte, error) {
	var probe map[string]any
	if err := json.Unmarshal(patch, &probe); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	out, err := jsonpatch.MergePatch(doc, patch)
	if err != nil {
		return nil, unprocessable(err)
	}
	return out, nil
}

func applyStrategic(doc, patch []byte, shape runtime.Object) ([]byte, error) {
	var probe map[string]any
	if err := json.Unmarshal(patch, &probe); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	out, err := strategicpatch.StrategicMergePatch(doc, patch, shape)
	if errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList) {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err != nil {
		return nil, unprocessable(err)
	}
	return out, nil
}

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}
