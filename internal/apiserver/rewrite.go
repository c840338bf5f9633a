package apiserver

import (
	"bytes"
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"
)

// wantsSlash reports whether a request asks for the root of what is proxied to
// by a path without a slash at its end: links relative to it would lead elsewhere.
func (c *call) wantsSlash() bool {
	read := c.r.Method == http.MethodGet || c.r.Method == http.MethodHead
	return read && c.info.Rest == "" && !strings.HasSuffix(c.r.URL.Path, "/") && c.r.Header.Get("Upgrade") == ""
}

func (c *call) addSlash() {
	to := url.URL{Path: c.r.URL.Path + "/", RawQuery: c.r.URL.RawQuery}
	c.w.Header().Set("Location", to.String())
	c.w.WriteHeader(http.StatusMovedPermanently)
}

// rewriter makes links of proxied pages lead through the proxy again.
type rewriter struct {
	prefix string // the path of the proxy subresource
	host   string // what is proxied to
}

func (c *call) rewriter(to *url.URL) rewriter {
	return rewriter{prefix: strings.TrimSuffix(strings.TrimSuffix(c.r.URL.Path, c.info.Rest), "/"), host: to.Host}
}

// response rewrites where an answer redirects to, and the links of HTML. Other
// content, and what is encoded in a way not known here, is left as it is.
func (w rewriter) response(resp *http.Response) {
	if to := resp.Header.Get("Location"); to != "" {
		resp.Header.Set("Location", w.link(to))
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "text/html" {
		return
	}
	encoding := resp.Header.Get("Content-Encoding")
	if resp.Request.Method == http.MethodHead || encoding != "" && encoding != "gzip" {
		return
	}
	r, out := io.Pipe()
	go func(in io.ReadCloser) {
		defer in.Close()
		out.CloseWithError(w.copy(out, in, encoding == "gzip")) // never fails
	}(resp.Body)
	resp.Body = r
	resp.ContentLength = -1
	resp.Header.Del("Content-Length")
}

func (w rewriter) copy(out io.Writer, in io.Reader, zipped bool) error {
	if !zipped {
		return w.html(out, in)
	}
	plain, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	if err := w.html(zip, plain); err != nil {
		return err
	}
	return zip.Close()
}

// links are the attributes that hold one URL, by element.
// https://html.spec.whatwg.org/multipage/indices.html#attributes-3
var links = map[string][]string{
	"a": {"href"}, "area": {"href"}, "audio": {"src"}, "base": {"href"}, "blockquote": {"cite"}, "body": {"background"},
	"button": {"formaction"}, "del": {"cite"}, "embed": {"src"}, "form": {"action"}, "frame": {"src", "longdesc"},
	"head": {"profile"}, "html": {"manifest"}, "iframe": {"src", "longdesc"}, "img": {"src", "longdesc", "usemap"},
	"input": {"src", "formaction", "usemap"}, "ins": {"cite"}, "link": {"href"},
	"object": {"data", "classid", "codebase", "usemap"}, "q": {"cite"}, "script": {"src"}, "source": {"src"},
	"track": {"src"}, "video": {"src", "poster"},
}

// html copies a page. Elements without links are copied as they stand.
func (w rewriter) html(out io.Writer, in io.Reader) error {
	page := html.NewTokenizer(in)
	for {
		kind := page.Next()
		raw := page.Raw()
		switch kind {
		case html.ErrorToken:
			if _, err := out.Write(raw); err != nil {
				return err
			}
			if err := page.Err(); err != io.EOF {
				return err
			}
			return nil
		case html.StartTagToken, html.SelfClosingTagToken:
			raw = w.element(page, bytes.Clone(raw))
		}
		if _, err := out.Write(raw); err != nil {
			return err
		}
	}
}

// element returns the tag with its links rewritten, raw if there is none.
func (w rewriter) element(page *html.Tokenizer, raw []byte) []byte {
	token := page.Token()
	changed := false
	for _, name := range links[token.Data] {
		for i := range token.Attr {
			a := &token.Attr[i]
			if a.Key != name {
				continue
			}
			if to := w.link(a.Val); to != a.Val {
				a.Val, changed = to, true
			}
		}
	}
	if !changed {
		return raw
	}
	return []byte(token.String())
}

// link returns where a link has to lead to go through the proxy. Links that are
// relative to the page do so already, and those to other hosts need not.
func (w rewriter) link(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Opaque != "" || u.Host != "" && u.Host != w.host || !strings.HasPrefix(u.Path, "/") {
		return to
	}
	if u.Path == w.prefix || strings.HasPrefix(u.Path, w.prefix+"/") {
		return to
	}
	slash := strings.HasSuffix(u.Path, "/")
	u.Scheme, u.Host, u.User = "", "", nil
	u.Path, u.RawPath = path.Join(w.prefix, path.Clean(u.Path)), ""
	if slash {
		u.Path += "/"
	}
	return u.String()
}
