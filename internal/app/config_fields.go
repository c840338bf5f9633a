package app

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// A configField says what becomes of a field of a component's configuration
// file. The zero value is a field that is carried out.
type configField struct {
	// same are the values that say what happens here anyway.
	same []string
	// without is why other values change nothing; they are warned about.
	without string
	// refused is why other values are an error: the node would not do what its
	// file says.
	refused string
}

func inVain(reason string, same ...string) configField {
	return configField{without: reason, same: same}
}
func refused(reason string, same ...string) configField {
	return configField{refused: reason, same: same}
}

// checkFields refuses or warns of what is given and not carried out; by says
// which fields a flag has set. Fields within others have names with dots.
func checkFields(fields map[string]configField, given map[string]any, by map[string]string) (faults []error) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		field, known := fields[name]
		if inner, ok := given[name].(map[string]any); ok && !known {
			within := map[string]any{}
			for key, value := range inner {
				within[name+"."+key] = value
			}
			faults = append(faults, checkFields(fields, within, by)...)
			continue
		}
		if !known || unset(given[name]) || slices.Contains(field.same, strings.TrimSpace(fmt.Sprint(given[name]))) {
			continue // unknown ones have been refused by decoding
		}
		label := name
		if flag, ok := by[name]; ok {
			label = flag
		}
		switch {
		case field.refused != "":
			faults = append(faults, fmt.Errorf("%s: %s", label, field.refused))
		case field.without != "":
			slog.Warn("a setting has no effect", "field", label, "reason", field.without)
		}
	}
	return faults
}

// unset reports whether a value is the zero that tools write for "not set".
func unset(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0s" || v == "0"
	case map[string]any:
		for _, inner := range v {
			if !unset(inner) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	case bool:
		return false // switched off is a decision
	case float64:
		return v == 0
	case int64:
		return v == 0
	}
	return false
}
