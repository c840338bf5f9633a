package fieldmanager

import (
	"sync"
	"weak"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// parsedFields remembers what entries say, by their text: the objects of one
// template all say the same. It is held weakly: an idle server holds nothing.
type parsedFields struct {
	mu    sync.Mutex
	known weak.Pointer[map[parsedKey]*parsed]
}

type parsedKey struct {
	plan *plan // the kind, since what the text means depends on the schema
	raw  string
}

// parsed is an entry's set, which nobody may change, and the text that
// structured-merge-diff writes for it.
type parsed struct {
	set    *fieldpath.Set
	fields *metav1.FieldsV1
}

// maxParsed bounds how many are known, and how long their text may be, in bytes.
const (
	maxParsed       = 512
	maxParsedLength = 16 << 10
)

// get returns what the text of an entry says, or false if that must first be
// adapted to the schema.
func (p *parsedFields) get(w *write, fields *metav1.FieldsV1) (*parsed, bool) {
	raw := fields.GetRawBytes()
	p.mu.Lock()
	known := p.known.Value()
	if known != nil {
		// The compiler looks up such a key without making it.
		if got := (*known)[parsedKey{w.plan, string(raw)}]; got != nil {
			p.mu.Unlock()
			return got, true
		}
	}
	p.mu.Unlock()
	got, ok := parse(w, fields)
	if !ok || len(raw) > maxParsedLength {
		return got, ok
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known = p.known.Value(); known == nil || len(*known) >= maxParsed {
		known = &map[parsedKey]*parsed{}
		p.known = weak.Make(known)
	}
	(*known)[parsedKey{w.plan, string(raw)}] = got
	return got, true
}

func parse(w *write, fields *metav1.FieldsV1) (*parsed, bool) {
	set := &fieldpath.Set{}
	if set.FromJSON(fields.GetRawReader()) != nil || set.Empty() || set.Has(fieldpath.MakePathOrDie("metadata", "managedFields")) {
		return nil, false
	}
	empty, err := value.NewValueReflect(w.kind.New())
	if err != nil {
		return nil, false
	}
	object := typed.AsTypedUnvalidated(empty, w.as.Schema, w.as.TypeRef)
	if fitted, err := typed.ReconcileFieldSetWithSchema(set, object); err != nil || fitted != nil {
		return nil, false
	}
	raw, err := set.ToJSON()
	if err != nil {
		return nil, false
	}
	if string(raw) != fields.GetRawString() {
		fields = metav1.NewFieldsV1(string(raw))
	}
	return &parsed{set: set, fields: fields}, true
}
