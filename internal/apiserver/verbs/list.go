package verbs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/watchcache"
)

// ListOptions select what a list, a watch or a deletecollection is about.
type ListOptions struct {
	Labels labels.Selector // nil selects all
	Fields fields.Selector // nil selects all
	Limit  int64
	// Continue is the token of the previous page.
	Continue             string
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
}

// Listed is the answer to a List.
type Listed struct {
	Items     []*watchcache.Item
	Rev       int64
	Continue  string
	Remaining *int64 // nil where selectors make it unknown
}

// Matches reports whether the options select obj.
func (r *Resource) Matches(opts *ListOptions, obj meta.Object) bool {
	if opts.Labels != nil && !opts.Labels.Empty() && !opts.Labels.Matches(labels.Set(obj.GetLabels())) {
		return false
	}
	if opts.Fields != nil && !opts.Fields.Empty() && !opts.Fields.Matches(&selectable{r: r, obj: obj}) {
		return false
	}
	return true
}

// selectable is an object's fields that can be selected by. Most selectors ask for a name, which is found without making
// them all.
type selectable struct {
	r   *Resource
	obj meta.Object
	all fields.Set
}

// Get implements fields.Fields.
func (s *selectable) Get(field string) string {
	switch field {
	case "metadata.name":
		return s.obj.GetName()
	case "metadata.namespace":
		return s.obj.GetNamespace()
	}
	return s.set()[field]
}

// Has implements fields.Fields.
func (s *selectable) Has(field string) bool { return s.set().Has(field) }

func (s *selectable) set() fields.Set {
	if s.all == nil {
		s.all = s.r.SelectableFields(s.obj)
	}
	return s.all
}

func (o *ListOptions) selects() bool {
	return (o.Labels != nil && !o.Labels.Empty()) || (o.Fields != nil && !o.Fields.Empty())
}

// List returns the objects of a namespace ("" for all) as of one instant.
func (r *Resource) List(ctx context.Context, namespace string, opts ListOptions) (*Listed, error) {
	if r.info.Observed {
		return r.observe(ctx, namespace, opts)
	}
	if opts.Continue != "" {
		return r.listPage(ctx, namespace, opts)
	}
	if exact, err := r.exactRev(opts); err != nil {
		return nil, err
	} else if exact > 0 {
		return r.listStored(ctx, namespace, opts, exact, "")
	}
	if err := r.reach(ctx, opts.ResourceVersion); err != nil {
		return nil, err
	}
	snap := r.table.Snapshot()
	return r.listSnapshot(snap, namespace, opts, meta.Key{}), nil
}

// exactRev returns the revision at which the list must be exact, 0 for none.
func (r *Resource) exactRev(opts ListOptions) (int64, error) {
	rev, err := parseRev(opts.ResourceVersion)
	if err != nil {
		return 0, err
	}
	switch opts.ResourceVersionMatch {
	case metav1.ResourceVersionMatchExact:
		return rev, nil
	case "": // a page at a version is exact, for clients older than the match
		if opts.Limit > 0 {
			return rev, nil
		}
	}
	return 0, nil
}

// candidates yields what the scope of a list can contain: one object where a
// field selector names it, what an index finds, or the namespace.
func (r *Resource) candidates(snap watchcache.Snapshot, namespace string, opts *ListOptions, after meta.Key) func(func(*watchcache.Item) bool) {
	scope := r.scope(namespace, opts)
	if scope.Name == "" && scope.Index == "" {
		return snap.All(namespace, after)
	}
	return func(yield func(*watchcache.Item) bool) {
		for item := range snap.In(scope) {
			key := meta.KeyOf(item.Object)
			if (namespace != "" && key.Namespace != namespace) || !keyAfter(key, after) {
				continue
			}
			if !yield(item) {
				return
			}
		}
	}
}

func keyAfter(key, after meta.Key) bool {
	return after == meta.Key{} || key.Namespace > after.Namespace || (key.Namespace == after.Namespace && key.Name > after.Name)
}

// scope narrows a list or watch by what its field selector demands exactly.
func (r *Resource) scope(namespace string, opts *ListOptions) watchcache.Scope {
	s := watchcache.Scope{Namespace: namespace}
	if opts.Fields == nil {
		return s
	}
	if name, ok := opts.Fields.RequiresExactMatch("metadata.name"); ok && (namespace != "" || r.info.Scope == resource.Cluster) {
		s.Name = name
		return s
	}
	for _, ix := range r.info.Indexes {
		if v, ok := opts.Fields.RequiresExactMatch(ix.Name); ok && v != "" {
			return watchcache.Scope{Index: ix.Name, Value: v}
		}
	}
	return s
}

func (r *Resource) listSnapshot(snap watchcache.Snapshot, namespace string, opts ListOptions, after meta.Key) *Listed {
	out := &Listed{Rev: snap.Rev()}
	var last meta.Key
	selects := opts.selects()
	for item := range r.candidates(snap, namespace, &opts, after) {
		item = r.shown(item)
		if selects && !r.Matches(&opts, item.Object) {
			continue
		}
		if opts.Limit > 0 && int64(len(out.Items)) == opts.Limit {
			out.Continue = encodeContinue(snap.Rev(), last)
			r.pages.keep(snap)
			if !selects {
				n := r.countAfter(snap, namespace, last)
				out.Remaining = &n
			}
			break
		}
		out.Items = append(out.Items, item)
		last = meta.KeyOf(item.Object)
	}
	return out
}

func (r *Resource) countAfter(snap watchcache.Snapshot, namespace string, after meta.Key) (n int64) {
	for range snap.All(namespace, after) {
		n++
	}
	return n
}

// A continue token names the revision of the list and the last key it gave.
type continueToken struct {
	Version string `json:"v"`
	Rev     int64  `json:"rv"`
	Start   string `json:"start"`
}

const tokenVersion = "meta.k8s.io/v1"

func encodeContinue(rev int64, last meta.Key) string {
	start := last.Name
	if last.Namespace != "" {
		start = last.Namespace + "/" + last.Name
	}
	data, err := json.Marshal(continueToken{Version: tokenVersion, Rev: rev, Start: start + "\x00"})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func decodeContinue(token string) (rev int64, last meta.Key, err error) {
	invalid := func(why string) error {
		return apierrors.NewBadRequest("invalid continue token: continue key is not valid: " + why)
	}
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, last, invalid(err.Error())
	}
	var c continueToken
	if err := json.Unmarshal(data, &c); err != nil {
		return 0, last, invalid(err.Error())
	}
	switch {
	case c.Version != tokenVersion:
		return 0, last, invalid(fmt.Sprintf("server does not recognize this encoded version %q", c.Version))
	case c.Rev == 0:
		return 0, last, invalid("incorrect encoded start resourceVersion (version " + tokenVersion + ")")
	case c.Start == "":
		return 0, last, invalid("encoded start key empty (version " + tokenVersion + ")")
	case strings.Contains("/"+c.Start+"/", "/../"):
		return 0, last, invalid(c.Start)
	}
	start := strings.TrimSuffix(c.Start, "\x00")
	if ns, name, ok := strings.Cut(start, "/"); ok {
		return c.Rev, meta.Key{Namespace: ns, Name: name}, nil
	}
	return c.Rev, meta.Key{Name: start}, nil
}

// listPage serves a further page: from the snapshot of the first if it is
// still kept, else from the store at its revision, else it says 410 with a
// token to go on with at the present state.
func (r *Resource) listPage(ctx context.Context, namespace string, opts ListOptions) (*Listed, error) {
	if opts.ResourceVersion != "" && opts.ResourceVersion != "0" {
		return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	rev, last, err := decodeContinue(opts.Continue)
	if err != nil {
		return nil, err
	}
	if rev < 0 { // the inconsistent continuation of an expired list
		if err := r.reach(ctx, ""); err != nil {
			return nil, err
		}
		return r.listSnapshot(r.table.Snapshot(), namespace, opts, last), nil
	}
	if snap, ok := r.pages.find(rev); ok {
		return r.listSnapshot(snap, namespace, opts, last), nil
	}
	start := last.Name
	if last.Namespace != "" {
		start = last.Namespace + "/" + last.Name
	}
	listed, err := r.listStored(ctx, namespace, opts, rev, r.prefix()+start)
	if apierrors.IsResourceExpired(err) {
		return nil, expiredContinue(encodeContinue(-1, last))
	}
	return listed, err
}

func expiredContinue(token string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = token
	return err
}

// listStored reads a list at a past revision from the store.
func (r *Resource) listStored(ctx context.Context, namespace string, opts ListOptions, rev int64, after string) (*Listed, error) {
	prefix := r.prefix()
	if namespace != "" {
		prefix += namespace + "/"
	}
	out := &Listed{Rev: rev}
	for {
		page, err := r.e.store.List(ctx, prefix, store.ListOptions{Rev: rev, After: after, Limit: opts.Limit})
		if err != nil {
			return nil, r.listError(err, rev)
		}
		for _, kv := range page.KVs {
			obj, err := r.decode(kv.Value, kv.ModRev)
			if err != nil {
				continue // the cache reports such keys; see watchcache
			}
			after = kv.Key
			if !r.Matches(&opts, obj) {
				continue
			}
			out.Items = append(out.Items, &watchcache.Item{Object: obj, Rev: kv.ModRev})
		}
		if !page.More {
			return out, nil
		}
		if opts.Limit == 0 || int64(len(out.Items)) >= opts.Limit {
			last := out.Items[len(out.Items)-1].Object
			out.Continue = encodeContinue(rev, meta.KeyOf(last))
			if !opts.selects() {
				out.Remaining = &page.Remaining
			}
			return out, nil
		}
	}
}

func (r *Resource) listError(err error, rev int64) error {
	switch {
	case errors.Is(err, store.ErrCompacted):
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	case errors.Is(err, store.ErrFutureRevision):
		return tooLarge(rev, r.table.Rev())
	}
	return unavailable(err)
}

// pages keeps the snapshots of the last few paged lists, so that their further
// pages cost no more than the first.
type pages struct {
	mu   sync.Mutex
	kept []watchcache.Snapshot
}

const (
	maxPages = 8
	pageLife = time.Minute
)

func (p *pages) keep(s watchcache.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, have := range p.kept {
		if have.Rev() == s.Rev() {
			return
		}
	}
	if len(p.kept) == maxPages {
		p.kept = append(p.kept[:0], p.kept[1:]...)
	}
	p.kept = append(p.kept, s)
	time.AfterFunc(pageLife, func() { p.drop(s.Rev()) })
}

// drop forgets a snapshot, and with it the objects that have changed since.
func (p *pages) drop(rev int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = slices.DeleteFunc(p.kept, func(s watchcache.Snapshot) bool { return s.Rev() == rev })
}

func (p *pages) find(rev int64) (watchcache.Snapshot, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.kept {
		if s.Rev() == rev {
			return s, true
		}
	}
	var none watchcache.Snapshot
	return none, false
}
