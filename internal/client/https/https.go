// Package https is the client's transport to an API server elsewhere: HTTPS
// requests in protobuf, and caches fed by list and watch.
package https

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

// Transport is a client.Transport to the server of one rest.Config.
type Transport struct {
	http  *http.Client
	base  *url.URL
	agent string

	ctx    context.Context // of the feeds of caches
	cancel context.CancelFunc
	feeds  sync.WaitGroup
	mu     sync.Mutex
	tables map[tableKey]*feed
}

// feed is a table and the end of what keeps it current.
type feed struct {
	table *watchcache.Table
	stop  context.CancelFunc
}

type tableKey struct {
	gvr   schema.GroupVersionResource
	scope watchcache.Scope
}

// New returns a transport; agent names the component, for the field manager
// and the server's logs. Close ends its caches.
func New(cfg *rest.Config, agent string) (*Transport, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = agent
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("setting up the connection to %s: %w", cfg.Host, err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("reading the server's address: %w", err)
	}
	t := &Transport{http: hc, base: base, agent: agent, tables: map[tableKey]*feed{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

// Close ends all caches and waits for them.
func (t *Transport) Close() {
	t.cancel()
	t.feeds.Wait()
}

// url returns where ref is found.
func (t *Transport) url(ref client.Ref, q url.Values) string {
	u := *t.base
	parts := []string{u.Path, "/apis", ref.Group, ref.Version}
	if ref.Group == "" {
		parts = []string{u.Path, "/api", ref.Version}
	}
	if ref.Namespace != "" {
		parts = append(parts, "namespaces", ref.Namespace)
	}
	parts = append(parts, ref.Resource)
	if ref.Name != "" {
		parts = append(parts, ref.Name)
	}
	if ref.Subresource != "" {
		parts = append(parts, ref.Subresource)
	}
	u.Path, u.RawQuery = path.Join(parts...), q.Encode()
	return u.String()
}

const (
	acceptWhole    = scheme.Protobuf + "," + scheme.JSON + ";q=0.5"
	acceptMetadata = scheme.Protobuf + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	acceptList     = scheme.Protobuf + ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// accept returns what an answer about ref is asked for as. Kinds that are not
// compiled in, those of custom resources and of other API servers, come as
// their metadata: it is all that can be read of them here.
func accept(method string, ref client.Ref, q url.Values) string {
	switch {
	case known(ref) || method == http.MethodDelete:
		return acceptWhole
	case method == http.MethodGet && ref.Name == "" && !q.Has("watch"):
		return acceptList
	}
	return acceptMetadata
}

func known(ref client.Ref) bool {
	return scheme.Known.IsVersionRegistered(ref.GroupVersion())
}

// do sends a request and returns its answer once the status is good.
func (t *Transport) do(ctx context.Context, method string, ref client.Ref, q url.Values, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.url(ref, q), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept(method, ref, q))
	req.Header.Set("User-Agent", t.agent)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := t.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the API server: %w", err)
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, statusError(resp, method)
}

// maxStatus bounds how much of an error's answer is read.
const maxStatus = 1 << 20

func statusError(resp *http.Response, method string) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return fmt.Errorf("reading the API server's answer: %w", err)
	}
	var status metav1.Status
	if decode(resp.Header.Get("Content-Type"), data, &status) == nil && status.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, method, schema.GroupResource{}, "", strings.TrimSpace(string(data)), 0, true)
}

func decode(contentType string, data []byte, into runtime.Object) error {
	if strings.HasPrefix(contentType, scheme.Protobuf) {
		_, err := scheme.DecodeProtobuf(data, into)
		return err
	}
	return json.Unmarshal(data, into)
}

// call sends obj, if any, and decodes the answer into its own kind.
func (t *Transport) call(ctx context.Context, method string, ref client.Ref, q url.Values, obj runtime.Object) (runtime.Object, error) {
	var body []byte
	var contentType string
	if obj != nil {
		var err error
		if body, err = scheme.EncodeProtobuf(obj); err != nil {
			return nil, err
		}
		contentType = scheme.Protobuf
	}
	return t.send(ctx, method, ref, q, contentType, body)
}

func (t *Transport) send(ctx context.Context, method string, ref client.Ref, q url.Values, contentType string, body []byte) (runtime.Object, error) {
	resp, err := t.do(ctx, method, ref, q, contentType, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's answer: %w", err)
	}
	return decodeAny(resp.Header.Get("Content-Type"), data)
}

// decodeAny decodes an object into the type of the kind that it names.
func decodeAny(contentType string, data []byte) (runtime.Object, error) {
	var kind schema.GroupVersionKind
	var err error
	if strings.HasPrefix(contentType, scheme.Protobuf) {
		kind, _, err = scheme.Unwrap(data)
	} else {
		kind, err = scheme.PeekKind(data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the API server's answer: %w", err)
	}
	obj, err := scheme.Known.New(kind)
	if err != nil {
		return nil, err
	}
	if err := decode(contentType, data, obj); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return obj, nil
}

func object(obj runtime.Object, err error) (meta.Object, error) {
	if err != nil {
		return nil, err
	}
	o, ok := obj.(meta.Object)
	if !ok {
		return nil, fmt.Errorf("the API server answered with a %s", obj.GetObjectKind().GroupVersionKind().Kind)
	}
	return o, nil
}

// Get implements client.Transport.
func (t *Transport) Get(ctx context.Context, ref client.Ref, opts metav1.GetOptions) (meta.Object, error) {
	q := url.Values{}
	set(q, "resourceVersion", opts.ResourceVersion)
	return object(t.call(ctx, http.MethodGet, ref, q, nil))
}

func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

func listQuery(opts metav1.ListOptions) url.Values {
	q := url.Values{}
	set(q, "labelSelector", opts.LabelSelector)
	set(q, "fieldSelector", opts.FieldSelector)
	set(q, "resourceVersion", opts.ResourceVersion)
	set(q, "resourceVersionMatch", string(opts.ResourceVersionMatch))
	set(q, "continue", opts.Continue)
	if opts.Limit > 0 {
		q.Set("limit", strconv.FormatInt(opts.Limit, 10))
	}
	return q
}

func writeQuery(dryRun []string, manager string) url.Values {
	q := url.Values{"dryRun": dryRun}
	set(q, "fieldManager", manager)
	return q
}

// List implements client.Transport.
func (t *Transport) List(ctx context.Context, ref client.Ref, opts metav1.ListOptions) (*client.List, error) {
	got, err := t.call(ctx, http.MethodGet, ref, listQuery(opts), nil)
	if err != nil {
		return nil, err
	}
	return listFrom(got)
}

// Create implements client.Transport.
func (t *Transport) Create(ctx context.Context, ref client.Ref, obj runtime.Object, opts metav1.CreateOptions) (runtime.Object, error) {
	return t.call(ctx, http.MethodPost, ref, writeQuery(opts.DryRun, opts.FieldManager), obj)
}

// Update implements client.Transport.
func (t *Transport) Update(ctx context.Context, ref client.Ref, obj meta.Object, opts metav1.UpdateOptions) (meta.Object, error) {
	return object(t.call(ctx, http.MethodPut, ref, writeQuery(opts.DryRun, opts.FieldManager), obj))
}

// Patch implements client.Transport.
func (t *Transport) Patch(ctx context.Context, ref client.Ref, pt types.PatchType, data []byte, opts metav1.PatchOptions) (meta.Object, error) {
	q := writeQuery(opts.DryRun, opts.FieldManager)
	q.Set("fieldValidation", metav1.FieldValidationStrict)
	if pt == types.ApplyPatchType {
		if opts.FieldManager == "" {
			q.Set("fieldManager", t.agent)
		}
		if opts.Force != nil {
			q.Set("force", strconv.FormatBool(*opts.Force))
		}
	}
	return object(t.send(ctx, http.MethodPatch, ref, q, string(pt), data))
}

// Delete implements client.Transport. Only kinds that end gracefully tell the
// resourceVersion of their deletion.
func (t *Transport) Delete(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions) (string, error) {
	got, err := t.remove(ctx, ref, nil, opts)
	if err != nil {
		return "", err
	}
	if obj, ok := got.(metav1.Object); ok {
		return obj.GetResourceVersion(), nil
	}
	return "", nil
}

// DeleteCollection implements client.Transport.
func (t *Transport) DeleteCollection(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions, list metav1.ListOptions) error {
	_, err := t.remove(ctx, ref, listQuery(list), opts)
	return err
}

func (t *Transport) remove(ctx context.Context, ref client.Ref, q url.Values, opts metav1.DeleteOptions) (runtime.Object, error) {
	opts.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}
	body, err := json.Marshal(&opts)
	if err != nil {
		return nil, err
	}
	if known(ref) {
		return t.send(ctx, http.MethodDelete, ref, q, scheme.JSON, body)
	}
	resp, err := t.do(ctx, http.MethodDelete, ref, q, scheme.JSON, body)
	if err != nil {
		return nil, err
	}
	return nil, resp.Body.Close()
}

var errNotAList = errors.New("the API server's answer is not a list")
