// Package load is a client that costs little itself, so that on a small
// machine the server is what is measured: it sends requests whose bodies were
// encoded before, and counts what comes back instead of decoding it. It takes
// a kubeconfig, so any cluster can be put under the same load.
package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/bench/measure"
)

// Media types that the tools speak.
const (
	JSON     = runtime.ContentTypeJSON
	Protobuf = runtime.ContentTypeProtobuf
)

// Client sends requests over several connections.
type Client struct {
	base  string
	conns []*http.Client
	next  atomic.Uint32
}

// Dial reads a kubeconfig and prepares that many connections.
func Dial(kubeconfig string, connections int) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	c := &Client{base: strings.TrimSuffix(config.Host, "/")}
	for range max(connections, 1) {
		own := rest.CopyConfig(config)
		// A dialer of its own keeps client-go from sharing one transport.
		own.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
		conn, err := rest.HTTPClientFor(own)
		if err != nil {
			return nil, fmt.Errorf("preparing connections: %w", err)
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

// Error is an answer that is not a success.
type Error struct {
	Code int
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Text) }

func (c *Client) request(ctx context.Context, method, path, media string, body []byte) (*http.Response, error) {
	return c.send(ctx, method, path, media, media, body)
}

// Patch sends a JSON merge patch and reads past the answer.
func (c *Client) Patch(ctx context.Context, path string, body []byte) error {
	resp, err := c.send(ctx, http.MethodPatch, path, Protobuf, "application/merge-patch+json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// send asks for an answer in the media type accept; the body is of type content.
func (c *Client) send(ctx context.Context, method, path, accept, content string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", content)
	}
	conn := c.conns[int(c.next.Add(1))%len(c.conns)]
	resp, err := conn.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // what there is of it explains the status
		return nil, fmt.Errorf("%s %s: %w", method, path, &Error{resp.StatusCode, strings.ToValidUTF8(string(text), "")})
	}
	return resp, nil
}

// Do sends a request and returns the answer's body.
func (c *Client) Do(ctx context.Context, method, path, media string, body []byte) ([]byte, error) {
	resp, err := c.request(ctx, method, path, media, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// Discard sends a request and returns how long the answer's body is.
func (c *Client) Discard(ctx context.Context, method, path, media string, body []byte) (int64, error) {
	resp, err := c.request(ctx, method, path, media, body)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}

// Encode writes an object in a media type, as a request body.
func Encode(media string, obj runtime.Object) ([]byte, error) {
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), media)
	if !ok {
		return nil, fmt.Errorf("no serializer for %s", media)
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return nil, err
	}
	return runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, kinds[0].GroupVersion()), obj)
}

// Decode reads an answer into obj.
func Decode(data []byte, obj runtime.Object) error {
	return runtime.DecodeInto(decoder, data, obj)
}

var decoder = scheme.Codecs.UniversalDeserializer()

// Object reads the object out of a watch event in JSON.
func Object(event []byte, obj any) error {
	e := struct {
		Type   string `json:"type"`
		Object any    `json:"object"`
	}{Object: obj}
	if err := json.Unmarshal(event, &e); err != nil {
		return fmt.Errorf("reading a watch event: %w", err)
	}
	if e.Type == "ERROR" {
		return fmt.Errorf("the watch ended: %s", event)
	}
	return nil
}

// Parallel calls f for 0..n-1 from several goroutines and collects how long
// each call took. The first error ends it.
func Parallel(ctx context.Context, n, concurrency int, f func(ctx context.Context, i int) error) (*measure.Times, time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var times measure.Times
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range min(concurrency, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				began := time.Now()
				if err := f(ctx, i); err != nil {
					cancel(err)
					return
				}
				times.Add(time.Since(began))
			}
		})
	}
	wg.Wait()
	return &times, time.Since(start), context.Cause(ctx)
}

// Namespace makes a namespace, which may be there already.
func (c *Client) Namespace(ctx context.Context, name string) error {
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, name)
	_, err := c.Discard(ctx, "POST", "/api/v1/namespaces", JSON, body)
	return Unless(err, http.StatusConflict)
}

// Account makes the namespace's default service account, which may be there already.
func (c *Client) Account(ctx context.Context, namespace string) error {
	body := []byte(`{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}`)
	_, err := c.Discard(ctx, "POST", "/api/v1/namespaces/"+namespace+"/serviceaccounts", JSON, body)
	return Unless(err, http.StatusConflict)
}

// DeleteAll deletes the objects of a collection at once, without grace.
func (c *Client) DeleteAll(ctx context.Context, path string) error {
	zero := int64(0)
	body, err := Encode(JSON, &metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}, GracePeriodSeconds: &zero})
	if err != nil {
		return err
	}
	for {
		// A server may run out of time before a large collection is empty.
		_, err = c.Discard(ctx, "DELETE", path, JSON, body)
		if err == nil || Unless(err, http.StatusGatewayTimeout) != nil {
			return err
		}
	}
}
