package check

import (
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
)

// A NameRule returns what is wrong with a name; prefix says that it is a
// metadata.generateName, to which a suffix will be added.
type NameRule func(name string, prefix bool) []string

// The rules that resources use for metadata.name.
var (
	DNSSubdomain NameRule = apivalidation.NameIsDNSSubdomain
	DNSLabel     NameRule = apivalidation.NameIsDNSLabel
	DNS1035Label NameRule = apivalidation.NameIsDNS1035Label
	// PathSegment allows what fits between two slashes of a URL: RBAC names.
	PathSegment NameRule = path.ValidatePathSegmentName
)
