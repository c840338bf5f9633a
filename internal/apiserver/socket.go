package apiserver

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The subprotocols in which a WebSocket carries a log. Without one it is the first.
const (
	binarySocket = "binary.k8s.io"
	base64Socket = "base64.binary.k8s.io"
)

const (
	socketPiece = 32 << 10 // of a log, in one message
	socketWait  = time.Minute
)

// logSocket sends a pod's log over a WebSocket, for clients in browsers, which
// can read no other stream.
func (c *call) logSocket(t target) error {
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), nil)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	resp, err := t.transport.RoundTrip(req)
	if err != nil {
		return c.unreachable(t, err)
	}
	defer resp.Body.Close()
	if err := c.logRefused(resp); err != nil {
		return c.unreachable(t, err)
	}
	upgrader := websocket.Upgrader{
		Subprotocols: []string{binarySocket, base64Socket},
		// Clients are known by certificates and tokens that no web page can use.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	conn, err := upgrader.Upgrade(c.w, c.r, nil)
	if err != nil {
		return nil // it has told the client what is wrong
	}
	defer conn.Close()
	go func() {
		defer cancel() // the client has gone
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	if err := sendLog(conn, resp.Body); err == nil {
		end := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		_ = conn.WriteControl(websocket.CloseMessage, end, time.Now().Add(socketWait)) // it may have gone meanwhile
	}
	return nil
}

// sendLog sends what comes as it comes.
func sendLog(conn *websocket.Conn, log io.Reader) error {
	piece := make([]byte, socketPiece)
	for {
		n, err := log.Read(piece)
		if n > 0 {
			if err := sendPiece(conn, piece[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func sendPiece(conn *websocket.Conn, piece []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(socketWait)); err != nil {
		return err
	}
	if conn.Subprotocol() == base64Socket {
		return conn.WriteMessage(websocket.TextMessage, base64.StdEncoding.AppendEncode(nil, piece))
	}
	return conn.WriteMessage(websocket.BinaryMessage, piece)
}
