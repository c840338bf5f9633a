package apiserver

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestRewriteLinks(t *testing.T) {
	w := rewriter{prefix: "/api/v1/namespaces/n/pods/p/proxy", host: "10.0.0.1:80"}
	for from, to := range map[string]string{
		"/":                                   w.prefix + "/",
		"/a/b?c=d#e":                          w.prefix + "/a/b?c=d#e",
		"/a/":                                 w.prefix + "/a/",
		"http://10.0.0.1:80/a":                w.prefix + "/a",
		w.prefix + "/a":                       w.prefix + "/a",
		"a/b":                                 "a/b",
		"#top":                                "#top",
		"https://example.com/a":               "https://example.com/a",
		"mailto:someone@example.com":          "mailto:someone@example.com",
		"/../../../../secrets":                w.prefix + "/secrets",
		"/api/v1/namespaces/n/pods/p/proxyer": w.prefix + "/api/v1/namespaces/n/pods/p/proxyer",
	} {
		if got := w.link(from); got != to {
			t.Errorf("%s: %s, want %s", from, got, to)
		}
	}
}

func TestRewritePages(t *testing.T) {
	w := rewriter{prefix: "/proxy", host: "pod"}
	page := `<!DOCTYPE html><pre><a HREF="/x?a=1&amp;b=2" id=1>x</a> <img src='y.png'><script>"<a href='/z'>"</script><form action="/f"></pre>`
	want := `<!DOCTYPE html><pre><a href="/proxy/x?a=1&amp;b=2" id="1">x</a> <img src='y.png'><script>"<a href='/z'>"</script><form action="/proxy/f"></pre>`
	answer := func(encoding, media string, body []byte) string {
		resp := &http.Response{
			Request: &http.Request{Method: http.MethodGet}, Body: io.NopCloser(bytes.NewReader(body)),
			Header: http.Header{"Content-Type": {media}, "Content-Encoding": {encoding}, "Location": {"/there"}},
		}
		w.response(resp)
		if to := resp.Header.Get("Location"); to != "/proxy/there" {
			t.Errorf("redirected to %s", to)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	if got := answer("", "text/html; charset=utf-8", []byte(page)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := answer("", "text/plain", []byte(page)); got != page {
		t.Errorf("text has become %s", got)
	}
	if got := answer("br", "text/html", []byte("not to be read")); got != "not to be read" {
		t.Errorf("what is encoded otherwise has become %s", got)
	}
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(zip, page); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := gzip.NewReader(strings.NewReader(answer("gzip", "text/html", zipped.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(plain); err != nil || string(got) != want {
		t.Errorf("%v; got  %s\nwant %s", err, got, want)
	}
}
