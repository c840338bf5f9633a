package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	spdystream "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

// The WebSocket protocols that are translated for the runtime, which speaks
// SPDY (KEP-4006). In both, the first byte of a message names its channel; the
// newer one can say that a channel is closed.
var channelProtocols = []string{remotecommand.StreamProtocolV5Name, remotecommand.StreamProtocolV4Name}

const (
	tunnelProtocol = "SPDY/3.1+portforward.k8s.io"

	stdinChannel  = 0
	stdoutChannel = 1
	stderrChannel = 2
	errorChannel  = 3
	resizeChannel = 4
	closeChannel  = 255

	maxMessage   = 16 << 20 // one message of a client
	chunk        = 32 << 10 // one message to a client
	writeTimeout = time.Minute
	lingerFor    = 2 * time.Second
)

func upgrader(protocols []string) *websocket.Upgrader {
	return &websocket.Upgrader{
		Subprotocols: protocols,
		// Clients are known by certificates and tokens that no web page can use,
		// and come by way of the API server, whose name is another.
		CheckOrigin: func(*http.Request) bool { return true },
	}
}

// channels is a WebSocket with numbered channels.
type channels struct {
	conn *websocket.Conn
	mu   sync.Mutex // of writing
}

func (c *channels) send(channel byte, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	w, err := c.conn.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	_, err1 := w.Write([]byte{channel})
	_, err2 := w.Write(data)
	return errors.Join(err1, err2, w.Close())
}

// writer is one outgoing channel as an io.Writer.
type writer struct {
	c       *channels
	channel byte
}

func (w writer) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n := min(len(b)-done, chunk)
		if err := w.c.send(w.channel, b[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(b), nil
}

// sizes hands the newest size of the client's terminal on.
type sizes chan spdystream.TerminalSize

func (s sizes) Next() *spdystream.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func (s sizes) put(size spdystream.TerminalSize) {
	for {
		select {
		case s <- size:
			return
		default:
		}
		select { // only the newest matters
		case <-s:
		default:
		}
	}
}

// translate connects a client that speaks WebSocket to a stream of the runtime.
func (s *Server) translate(w http.ResponseWriter, r *http.Request, to *url.URL, o streamOptions) {
	executor, err := spdystream.NewSPDYExecutor(&rest.Config{}, http.MethodPost, to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	conn, err := upgrader(channelProtocols).Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer conn.Close()
	conn.SetReadLimit(maxMessage)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &channels{conn: conn}
	in, stdin := io.Pipe()
	options := spdystream.StreamOptions{Tty: o.tty}
	size := make(sizes, 1)
	if o.stdin {
		options.Stdin = in
	}
	if o.stdout {
		options.Stdout = writer{c, stdoutChannel}
	}
	if o.stderr {
		options.Stderr = writer{c, stderrChannel}
	}
	if o.tty {
		options.TerminalSizeQueue = size
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(size)
		err := receive(conn, stdin, size)
		stdin.CloseWithError(err)
		cancel() // nobody listens any more
	})
	err = executor.StreamWithContext(ctx, options)
	in.Close() // what the client still sends has no reader
	c.finish(err)
	reader.Wait()
}

// receive takes the client's messages until it closes the connection.
func receive(conn *websocket.Conn, stdin *io.PipeWriter, size sizes) error {
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return err
		}
		if len(message) == 0 {
			continue
		}
		switch data := message[1:]; message[0] {
		case stdinChannel:
			if _, err := stdin.Write(data); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				return err
			}
		case resizeChannel:
			var to spdystream.TerminalSize
			if json.Unmarshal(data, &to) == nil && to.Width > 0 && to.Height > 0 {
				size.put(to)
			}
		case closeChannel:
			if len(data) == 1 && data[0] == stdinChannel {
				stdin.Close()
			}
		}
	}
}

// finish tells the client how the process ended and takes leave. The client's
// last messages are read until it has heard, as an early end of the connection
// could take the news away.
func (c *channels) finish(result error) {
	data, err := json.Marshal(outcome(result))
	if err == nil {
		err = c.send(errorChannel, data)
	}
	deadline := time.Now().Add(lingerFor)
	if err == nil {
		err = c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline)
	}
	if err != nil || c.conn.SetReadDeadline(deadline) != nil {
		c.conn.Close()
	}
}

// outcome is the Status that a client reads the exit code from.
func outcome(result error) *metav1.Status {
	var exit exec.CodeExitError
	switch {
	case result == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(result, &exit):
		return &metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason, Message: exit.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.Code)}}},
		}
	}
	return &metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: result.Error(), Code: http.StatusInternalServerError,
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Message: result.Error()}}},
	}
}

// tunnel carries a client's SPDY connection, which it has wrapped into a
// WebSocket, to the runtime.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request, to *url.URL) {
	back, err := dialSPDY(r.Context(), to, portforward.PortForwardProtocolV1Name)
	if err != nil {
		http.Error(w, fmt.Sprintf("error dialing backend: %v", err), http.StatusBadGateway)
		return
	}
	defer back.Close()
	conn, err := upgrader([]string{tunnelProtocol}).Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	front := portforward.NewTunnelingConnection("kubelet", conn)
	defer front.Close()
	stop := context.AfterFunc(r.Context(), func() { front.Close(); back.Close() })
	defer stop()
	var copies sync.WaitGroup
	// Neither side's protocol knows half an end: when one is done, both are.
	copies.Go(func() { _, _ = io.Copy(back, front); back.Close(); front.Close() })
	copies.Go(func() { _, _ = io.Copy(front, back); back.Close(); front.Close() })
	copies.Wait()
}

// upgraded is a connection whose first bytes are read already.
type upgraded struct {
	net.Conn
	in *bufio.Reader
}

func (u *upgraded) Read(b []byte) (int, error) { return u.in.Read(b) }

// dialSPDY connects to a stream of the runtime and returns the bare
// connection once the runtime speaks SPDY on it.
func dialSPDY(ctx context.Context, to *url.URL, protocol string) (net.Conn, error) {
	var dial interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if to.Scheme == "https" {
		dial = &tls.Dialer{}
	}
	conn, err := dial.DialContext(ctx, "tcp", to.Host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	request := &http.Request{Method: http.MethodPost, URL: to, Host: to.Host, Header: upgradeHeader(protocol), ProtoMajor: 1, ProtoMinor: 1}
	if err := request.Write(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, request)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // the code says enough if this fails
		return nil, errors.Join(fmt.Errorf("the container runtime answered %s: %s", resp.Status, text), conn.Close())
	}
	return &upgraded{conn, in}, nil
}
