package apiserver

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
	facts "skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheme"
)

// connect turns a request into a connection: to the kubelet of the pod's node
// for log, exec, attach and portforward; to the pod, service or node itself
// for proxy.
func (c *call) connect(k *resource.Connect) error {
	if !slices.Contains(k.Methods, c.r.Method) && !(c.r.Method == http.MethodHead && slices.Contains(k.Methods, http.MethodGet)) {
		return errNoMethod
	}
	if err := c.mayUpgrade(); err != nil {
		return err
	}
	options := k.Options()
	if err := scheme.DecodeQuery(c.r.URL.Query(), options); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	options.GetObjectKind().SetGroupVersionKind(scheme.KindOf(options))
	name, _, _ := splitPort(c.info.Name)
	if k.Name != "proxy" {
		name = c.info.Name
	}
	item, err := c.res.Get(c.r.Context(), meta.Key{Namespace: c.info.Namespace, Name: name}, "")
	if err != nil {
		return err
	}
	if err := c.res.Connect(c.r.Context(), c.key(), k.Name, options); err != nil {
		return err
	}
	target, err := c.target(k.Name, item.Object, options)
	if err != nil {
		return err
	}
	switch {
	case k.Name == "log" && websocket.IsWebSocketUpgrade(c.r):
		return c.logSocket(target)
	case k.Name == "proxy" && c.wantsSlash():
		c.addSlash()
		return nil
	}
	c.proxy(target)
	return nil
}

// mayUpgrade asks for the right to create exec, attach and portforward when
// they come by GET, as WebSockets must: without it, the right to read pods would
// be one to run commands in them.
// https://github.com/kubernetes/kubernetes/issues/133515
func (c *call) mayUpgrade() error {
	switch c.info.Subresource {
	case "exec", "attach", "portforward":
		if c.info.Verb == "get" {
			return c.mayCreate(c.r.Context())
		}
	}
	return nil
}

// A target is where a connection goes.
type target struct {
	url       *url.URL
	transport http.RoundTripper
}

func (c *call) target(sub string, obj meta.Object, options runtime.Object) (target, error) {
	if sub == "proxy" {
		return c.proxyTarget(obj)
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return target{}, errNoMethod
	}
	query := c.r.URL.Query()
	path := "/" + sub + "/" + pod.Namespace + "/" + pod.Name
	var container string
	switch o := options.(type) {
	case *corev1.PodLogOptions:
		container, path = o.Container, "/containerLogs/"+pod.Namespace+"/"+pod.Name
	case *corev1.PodExecOptions:
		container = o.Container
	case *corev1.PodAttachOptions:
		container = o.Container
	}
	if sub != "portforward" {
		chosen, err := chooseContainer(pod, container)
		if err != nil {
			return target{}, err
		}
		path += "/" + chosen
		query.Del("container")
	}
	if sub != "log" {
		renameStreams(query)
	}
	node, err := c.nodeOf(pod)
	if err != nil {
		return target{}, err
	}
	base, err := c.kubeletURL(node)
	if err != nil {
		return target{}, err
	}
	base.Path, base.RawQuery = path, query.Encode()
	return target{url: base, transport: c.s.Nodes}, nil
}

// renameStreams translates the API's names of the streams to the kubelet's.
func renameStreams(q url.Values) {
	for api, kubelet := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error"} {
		if v := q.Get(api); v != "" {
			q.Del(api)
			if isTrue(v) {
				q.Set(kubelet, "1")
			}
		}
	}
	if v := q.Get("tty"); v != "" {
		q.Del("tty")
		if isTrue(v) {
			q.Set("tty", "1")
		}
	}
}

// chooseContainer checks the container asked for, or picks the only one.
func chooseContainer(pod *corev1.Pod, asked string) (string, error) {
	var names, inits []string
	for i := range pod.Spec.Containers {
		names = append(names, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.InitContainers {
		inits = append(inits, pod.Spec.InitContainers[i].Name)
	}
	all := slices.Concat(names, inits)
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, pod.Spec.EphemeralContainers[i].Name)
	}
	switch {
	case asked != "" && slices.Contains(all, asked):
		return asked, nil
	case asked != "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", asked, pod.Name))
	case len(names) == 1:
		return names[0], nil
	}
	text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, names)
	if len(inits) > 0 {
		text += fmt.Sprintf(" or one of the init containers: %v", inits)
	}
	return "", apierrors.NewBadRequest(text)
}

func (c *call) nodeOf(pod *corev1.Pod) (*corev1.Node, error) {
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	res, ok := c.s.engine.ByGroupResource(schema.GroupResource{Resource: "nodes"})
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("nodes are not served"))
	}
	item, err := res.Get(c.r.Context(), meta.Key{Name: pod.Spec.NodeName}, "")
	if err != nil {
		return nil, err
	}
	return item.Object.(*corev1.Node), nil
}

func (c *call) kubeletURL(node *corev1.Node) (*url.URL, error) {
	if host, ok := facts.Kubelet(node); ok {
		return &url.URL{Scheme: "https", Host: host}, nil
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has not told yet where its kubelet can be reached", node.Name))
}

// splitPort reads the [scheme:]name[:port] that names a proxied pod or service.
func splitPort(s string) (name, scheme, port string) {
	switch parts := strings.Split(s, ":"); len(parts) {
	case 1:
		return parts[0], "", ""
	case 2:
		return parts[0], "", parts[1]
	default:
		return parts[1], parts[0], parts[2]
	}
}

func (c *call) proxyTarget(obj meta.Object) (target, error) {
	_, sch, port := splitPort(c.info.Name)
	if sch == "" {
		sch = "http"
	}
	var host string
	var err error
	transport := c.s.podTransport
	switch o := obj.(type) {
	case *corev1.Node:
		u, err := c.kubeletURL(o)
		if err != nil {
			return target{}, err
		}
		if port != "" && port != u.Port() {
			return target{}, apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, o.Name, fmt.Errorf("only the kubelet's port of a node can be proxied to"))
		}
		sch, host, transport = "https", u.Host, c.s.Nodes
	case *corev1.Pod:
		host, err = podAddress(o, port)
	case *corev1.Service:
		host, err = c.serviceAddress(o, port)
	}
	if err != nil {
		return target{}, err
	}
	if err := refuseLocal(host); err != nil && transport != c.s.Nodes {
		return target{}, err
	}
	path := c.info.Rest
	if path == "" {
		path = "/"
	}
	return target{url: &url.URL{Scheme: sch, Host: host, Path: path, RawQuery: c.r.URL.RawQuery}, transport: transport}, nil
}

func podAddress(pod *corev1.Pod, port string) (string, error) {
	if pod.Status.PodIP == "" {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address yet", pod.Name))
	}
	if port == "" {
		for _, ct := range pod.Spec.Containers {
			if len(ct.Ports) > 0 {
				port = strconv.Itoa(int(ct.Ports[0].ContainerPort))
				break
			}
		}
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(pod.Status.PodIP, port), nil
}

// refuseLocal keeps proxying away from the server's own host: loopback and
// link-local addresses are nobody's pod (CVE-2020-8562).
func refuseLocal(hostport string) error {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	ip := net.ParseIP(host)
	if ip == nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsUnspecified() || ip.IsMulticast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

// proxy passes the request on and the answer back, upgrades included. The
// node's redirects are not followed and not passed on: they could lead anywhere
// (CVE-2020-8559).
func (c *call) proxy(t target) {
	p := &httputil.ReverseProxy{
		Transport: t.transport,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL, pr.Out.Host = t.url, t.url.Host
			pr.Out.Header.Del("Authorization")
			for name := range pr.Out.Header {
				if strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
					pr.Out.Header.Del(name)
				}
			}
			pr.SetXForwarded()
			pr.Out.Header.Set("X-Forwarded-Uri", c.r.URL.Path)
		},
		FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.Header.Get("Location") != "" && t.transport == c.s.Nodes {
				return errRedirect
			}
			switch c.info.Subresource {
			case "log":
				return c.logRefused(resp)
			case "proxy":
				c.rewriter(t.url).response(resp)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				writeError(w, c.r, c.unreachable(t, err))
			}
		},
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	p.ServeHTTP(c.w, c.r)
}

// logRefused is the kubelet's "no" to a log, plain text or a Status, as an error
// of the API, or nil if it has said yes.
func (c *call) logRefused(resp *http.Response) error {
	switch resp.StatusCode / 100 {
	case 2:
		return nil
	case 3:
		return errRedirect
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 2048))
	if err != nil {
		return err
	}
	told := metav1.Status{}
	if json.Unmarshal(text, &told) == nil && told.Kind == "Status" && told.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: told}
	}
	message := strings.TrimSpace(string(text))
	switch resp.StatusCode {
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(message)
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(message))
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, "", schema.GroupResource{Resource: "pods/log"}, c.info.Name, message, 0, false)
}

var errRedirect = errors.New("the backend attempted to redirect this request, which is not permitted")

// unreachable words why the other end did not answer, as upstream does.
func (c *call) unreachable(t target, err error) error {
	if told := (*apierrors.StatusError)(nil); errors.As(err, &told) {
		return told
	}
	status := metav1.Status{Status: metav1.StatusFailure}
	switch {
	case errors.Is(err, errRedirect):
		status.Code, status.Message = http.StatusBadGateway, err.Error()
	case t.transport == c.s.Nodes && c.info.Subresource == "log":
		status.Code, status.Message = http.StatusInternalServerError, fmt.Sprintf("Get %q: %v", t.url, err)
	case t.transport == c.s.Nodes:
		status.Code, status.Message = http.StatusInternalServerError, "error dialing backend: "+err.Error()
	default:
		return apierrors.NewServiceUnavailable("error trying to reach service: " + err.Error())
	}
	return &apierrors.StatusError{ErrStatus: status}
}

// newPodTransport connects to pods and services. Their certificates are not
// verified, as nobody could say what they should be; upstream does the same.
func newPodTransport() http.RoundTripper {
	return &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		MaxIdleConnsPerHost: 1,
		IdleConnTimeout:     30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}
}
