package apiserver

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/scheme"
)

// form is how an answer is to be written: a media type, and possibly the kind
// into which the objects are to be transformed (Table, PartialObjectMetadata).
type form struct {
	media  string
	as     string // "", "Table", "PartialObjectMetadata" or "PartialObjectMetadataList"
	stream bool   // application/json;stream=watch
	pretty bool
}

// offer lists the media types in the order in which messages name them, and
// of the server's preference; streamed those of watches.
var (
	offer    = []string{scheme.JSON, scheme.YAML, scheme.Protobuf}
	streamed = []string{scheme.JSON, scheme.Protobuf}
)

// accept chooses the form of the answer from the Accept header. allowAs says
// whether the request can be answered by a transformed kind.
func accept(r *http.Request, allowAs bool, offer []string) (form, error) {
	header := r.Header.Get("Accept")
	pretty := wantsPretty(r)
	if header == "" {
		return form{media: scheme.JSON, pretty: pretty}, nil
	}
	key := acceptKey{header: header, as: allowAs, first: &offer[0]}
	best, ok := accepted.get(key)
	if !ok {
		if best, ok = choose(header, allowAs, offer); !ok {
			return form{}, notAcceptable(offer)
		}
		accepted.put(key, best)
	}
	best.pretty = pretty
	return best, nil
}

// choose reads an Accept header.
func choose(header string, allowAs bool, offer []string) (form, bool) {
	best, bestQ := form{}, -1.0
	for clause := range strings.SplitSeq(header, ",") {
		f, q, ok := acceptClause(clause, allowAs, offer)
		if ok && q > bestQ {
			best, bestQ = f, q
		}
	}
	return best, bestQ > 0
}

// acceptKey is what an Accept header's meaning depends on: itself, and what is
// offered, which is one of the lists above.
type acceptKey struct {
	header string
	as     bool
	first  *string
}

// accepted remembers what headers mean: clients send the same ones each time.
// Only so many, and no long ones, since clients choose them.
var accepted = chosen{made: map[acceptKey]form{}}

type chosen struct {
	mu   sync.RWMutex
	made map[acceptKey]form
}

const (
	maxAccepted     = 256
	maxAcceptHeader = 512
)

func (c *chosen) get(key acceptKey) (form, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f, ok := c.made[key]
	return f, ok
}

func (c *chosen) put(key acceptKey, f form) {
	if len(key.header) > maxAcceptHeader {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.made) < maxAccepted {
		key.header = strings.Clone(key.header)
		c.made[key] = f
	}
}

func acceptClause(clause string, allowAs bool, offer []string) (form, float64, bool) {
	media, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
	if err != nil {
		return form{}, 0, false
	}
	q := 1.0
	if s, ok := params["q"]; ok {
		if q, err = strconv.ParseFloat(s, 64); err != nil {
			return form{}, 0, false
		}
	}
	f := form{stream: params["stream"] == "watch"}
	if as := params["as"]; as != "" {
		if !allowAs || params["g"] != "meta.k8s.io" || params["v"] != "v1" || !transformable(as) {
			return form{}, 0, false
		}
		f.as = as
	}
	for _, have := range offer {
		if f.as == "Table" && have == scheme.Protobuf {
			continue // tables have no protobuf form
		}
		if mediaMatches(media, have) {
			f.media = have
			return f, q, true
		}
	}
	return form{}, 0, false
}

func transformable(kind string) bool {
	return kind == "Table" || kind == "PartialObjectMetadata" || kind == "PartialObjectMetadataList"
}

func mediaMatches(pattern, media string) bool {
	return pattern == "*/*" || pattern == "application/*" || pattern == media
}

func notAcceptable(offer []string) error {
	return apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", schema.GroupResource{}, "",
		"only the following media types are accepted: "+strings.Join(offer, ", "), 0, false)
}

// wantsPretty follows ?pretty, and without it gives people with a browser or
// curl a form they can read.
func wantsPretty(r *http.Request) bool {
	if r.URL.RawQuery != "" {
		if v := r.URL.Query().Get("pretty"); v != "" {
			return isTrue(v)
		}
	}
	agent := r.Header.Get("User-Agent")
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// mediaType finds the media type that a header names among those known.
func mediaType(header string, known []string) (string, bool) {
	if slices.Contains(known, header) {
		return header, true
	}
	media, _, err := mime.ParseMediaType(header)
	return media, err == nil && slices.Contains(known, media)
}

func unsupportedMedia(want []string) error {
	return apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "", schema.GroupResource{}, "",
		"the body of the request was in an unknown format - accepted media types include: "+strings.Join(want, ", "), 0, false)
}
