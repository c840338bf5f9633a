package apiserver_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff.dev/skiff/internal/testing/apitest"
)

// withPod starts a server with a pod that runs on a node whose kubelet is h.
func withPod(t *testing.T, h http.Handler) *apitest.API {
	t.Helper()
	kubelet := httptest.NewTLSServer(h)
	t.Cleanup(kubelet.Close)
	api := apitest.StartTLS(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).CoreV1()
	ctx := t.Context()
	host, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := c.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	if _, err := fmt.Sscan(port, &n.Status.DaemonEndpoints.KubeletEndpoint.Port); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = c.ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// dial opens a connection of its own to the server and sends a request on it.
func dial(t *testing.T, api *apitest.API, method, path string, header ...string) (*bufio.Reader, net.Conn) {
	t.Helper()
	conn, err := tls.Dial("tcp", api.HTTP.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // a test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(await)); err != nil {
		t.Fatal(err)
	}
	send(t, conn, method, path, header...)
	return bufio.NewReader(conn), conn
}

func send(t *testing.T, conn net.Conn, method, path string, header ...string) {
	t.Helper()
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: x", "Authorization: Bearer " + apitest.Admin}, header...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// TestUpgradePassesThrough: exec becomes a connection of bytes in both
// directions, and the kubelet gets neither the user's token nor other paths.
func TestUpgradePassesThrough(t *testing.T) {
	asked := make(chan *http.Request, 1)
	api := withPod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nready\n") // the client may have gone
		line, _ := buf.ReadString('\n')
		_, _ = io.WriteString(conn, strings.ToUpper(line))
	}))
	in, conn := dial(t, api, "POST", "/api/v1/namespaces/default/pods/p/exec?command=ls&stdin=true&stdout=true",
		"Connection: Upgrade", "Upgrade: test", "X-Remote-User: root")
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "test" {
		t.Fatalf("%v %+v", err, resp)
	}
	if line, err := in.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := in.ReadString('\n'); err != nil || line != "HELLO\n" {
		t.Errorf("%q %v", line, err)
	}
	r := <-asked
	if r.URL.Path != "/exec/default/p/c" || r.URL.Query().Encode() != "command=ls&input=1&output=1" {
		t.Errorf("the kubelet was asked for %s", r.URL)
	}
	for _, h := range []string{"Authorization", "X-Remote-User"} {
		if r.Header.Get(h) != "" {
			t.Errorf("the kubelet was told %s: %s", h, r.Header.Get(h))
		}
	}
}

// TestRedirectsAreNotFollowed: a kubelet that was taken over cannot send the
// API server's credentials elsewhere (CVE-2020-8559).
func TestRedirectsAreNotFollowed(t *testing.T) {
	reached := make(chan string, 10)
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached <- r.URL.Path }))
	defer other.Close()
	api := withPod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/stolen", http.StatusFound)
	}))
	for _, path := range []string{"exec?command=ls", "log", "portforward", "attach"} {
		in, _ := dial(t, api, "GET", "/api/v1/namespaces/default/pods/p/"+path, "Connection: Upgrade", "Upgrade: websocket")
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %d %s, Location %q", path, resp.StatusCode, data, resp.Header.Get("Location"))
		}
	}
	select {
	case path := <-reached:
		t.Errorf("a redirect to %s was followed", path)
	default:
	}
}

// TestRefusedUpgradeEndsTheConnection: what a client sends behind an upgrade
// that the kubelet refused never reaches the kubelet (CVE-2018-1002105).
func TestRefusedUpgradeEndsTheConnection(t *testing.T) {
	paths := make(chan string, 10)
	api := withPod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths <- r.URL.Path
		http.Error(w, "no", http.StatusForbidden)
	}))
	in, conn := dial(t, api, "GET", "/api/v1/namespaces/default/pods/p/exec?command=ls", "Connection: Upgrade", "Upgrade: websocket")
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("%v %+v", err, resp)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if got := <-paths; got != "/exec/default/p/c" {
		t.Errorf("first request: %s", got)
	}
	// The same connection is the API server's again, under the user's rights.
	_, err = io.WriteString(conn, "GET /runningpods/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if err == nil {
		if resp, err := http.ReadResponse(in, nil); err == nil && resp.StatusCode < 400 {
			t.Errorf("a smuggled request got %d", resp.StatusCode)
		}
	}
	select {
	case got := <-paths:
		t.Errorf("the kubelet was sent %s", got)
	default:
	}
}

// TestUnreachableKubelet: who looks for logs is told what is wrong.
func TestUnreachableKubelet(t *testing.T) {
	api := withPod(t, http.NotFoundHandler())
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).CoreV1()
	n, err := c.Nodes().Get(t.Context(), "node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = 1 // nobody listens there
	if _, err := c.Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Pods("default").GetLogs("p", &corev1.PodLogOptions{}).Stream(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), `Get "https://`) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v", err)
	}
}

// TestProxyLeadsThroughItself: what is proxied to begins with a slash, and its
// links lead through the proxy again.
func TestProxyLeadsThroughItself(t *testing.T) {
	api := withPod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<a href="%s/next">`, strings.TrimSuffix(r.URL.Path, "/"))
	}))
	const proxy = "/api/v1/nodes/node/proxy"
	for _, tc := range []struct {
		method, path     string
		code             int
		location, answer string
	}{
		{"GET", proxy + "?a=b", http.StatusMovedPermanently, proxy + "/?a=b", ""},
		{"GET", proxy + "/page", http.StatusOK, "", `<a href="` + proxy + `/page/next">`},
		{"POST", proxy, http.StatusOK, "", `<a href="` + proxy + `/next">`},
	} {
		in, _ := dial(t, api, tc.method, tc.path, "Content-Length: 0")
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tc.code || resp.Header.Get("Location") != tc.location || string(data) != tc.answer {
			t.Errorf("%s %s: %d, Location %q, %s", tc.method, tc.path, resp.StatusCode, resp.Header.Get("Location"), data)
		}
	}
}

// TestLogByWebSocket: browsers can read a log in no other way.
func TestLogByWebSocket(t *testing.T) {
	api := withPod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("previous") != "" {
			http.Error(w, "there is none", http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, "a line\n") // the client may have gone
	}))
	url := "wss://" + api.HTTP.Listener.Addr().String() + "/api/v1/namespaces/default/pods/p/log"
	header := http.Header{"Authorization": {"Bearer " + apitest.Admin}}
	for protocol, want := range map[string]string{"": "a line\n", "binary.k8s.io": "a line\n", "base64.binary.k8s.io": "YSBsaW5lCg=="} {
		dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a test
		if protocol != "" {
			dialer.Subprotocols = []string{protocol}
		}
		conn, _, err := dialer.DialContext(t.Context(), url, header)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, data, err := conn.ReadMessage(); err != nil || string(data) != want {
			t.Errorf("%q: %q, %v", protocol, data, err)
		}
		if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("%q: the end is %v", protocol, err)
		}
	}
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a test
	_, resp, err := dialer.DialContext(t.Context(), url+"?previous=true", header)
	if err == nil || resp == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("what the kubelet refuses: %v, %+v", err, resp)
	}
}

// TestLogRefused: what the kubelet says against a log becomes the API's error,
// whether it is in plain text, as stock kubelets write it, or a Status.
func TestLogRefused(t *testing.T) {
	const reason = `container "c" in pod "p" is waiting to start: ContainerCreating`
	api := withPod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("previous") != "" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"reason":"BadRequest","code":400}`, reason)
			return
		}
		http.Error(w, reason, http.StatusBadRequest)
	}))
	pods := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin)).CoreV1().Pods("default")
	for _, previous := range []bool{false, true} {
		_, err := pods.GetLogs("p", &corev1.PodLogOptions{Previous: previous}).Stream(t.Context())
		if !apierrors.IsBadRequest(err) || err.Error() != reason {
			t.Errorf("previous %v: %v", previous, err)
		}
	}
}
