package authn

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	protocolHeader = "Sec-Websocket-Protocol"
	protocolPrefix = "base64url.bearer.authorization.k8s.io."
)

// protocolToken finds a bearer token among the subprotocols of a WebSocket
// handshake; taken removes it from the request. A second subprotocol must be
// there for the server to choose: the token must never come back in the answer.
func protocolToken(r *http.Request) (token string, taken func(), err error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", nil, nil
	}
	var rest []string
	for _, line := range r.Header[protocolHeader] {
		for _, p := range strings.Split(line, ",") {
			p = textproto.TrimString(p)
			encoded, ok := strings.CutPrefix(p, protocolPrefix)
			if !ok {
				rest = append(rest, p)
				continue
			}
			if token != "" {
				return "", nil, errors.New("multiple base64.bearer.authorization tokens specified")
			}
			raw, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || len(raw) == 0 || !utf8.Valid(raw) {
				return "", nil, errors.New("invalid base64.bearer.authorization token encoding")
			}
			token = string(raw)
		}
	}
	if token == "" {
		return "", nil, nil
	}
	rest = slices.DeleteFunc(rest, func(p string) bool { return p == "" })
	if len(rest) == 0 {
		return "", nil, errors.New("missing additional subprotocol")
	}
	return token, func() { r.Header.Set(protocolHeader, strings.Join(rest, ",")) }, nil
}
