// Command frontend is the guestbook's web page: it keeps what visitors write in
// Redis, writing to the leader and reading from the followers. Its settings
// come from the environment: REDIS_LEADER and REDIS_FOLLOWER (host:port),
// REDIS_PASSWORD, TITLE.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<title>{{.Title}}</title>
<h1>{{.Title}}</h1>
<form method="post"><input name="entry" maxlength="200" autofocus> <button>Sign</button></form>
<ul>{{range .Entries}}<li>{{.}}</li>{{end}}</ul>
<p><small>served by {{.Pod}}</small></p>
`))

const (
	key      = "guestbook"
	shown    = 50
	patience = 2 * time.Second
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", read)
	mux.HandleFunc("POST /{$}", write)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if _, err := redis(r.Context(), os.Getenv("REDIS_FOLLOWER"), "PING"); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: patience}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, func() {
		if err := server.Shutdown(context.Background()); err != nil {
			log.Print(err)
		}
	})
	log.Print("serving on ", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func read(w http.ResponseWriter, r *http.Request) {
	entries, err := redis(r.Context(), os.Getenv("REDIS_FOLLOWER"), "LRANGE", key, "0", strconv.Itoa(shown-1))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	pod, _ := os.Hostname() // shown for interest only
	err = page.Execute(w, map[string]any{"Title": os.Getenv("TITLE"), "Entries": entries, "Pod": pod})
	if err != nil {
		log.Print(err)
	}
}

func write(w http.ResponseWriter, r *http.Request) {
	if entry := strings.TrimSpace(r.FormValue("entry")); entry != "" {
		if _, err := redis(r.Context(), os.Getenv("REDIS_LEADER"), "LPUSH", key, entry); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// redis sends one command on a connection of its own and returns the strings
// of the answer.
func redis(ctx context.Context, address string, command ...string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	if password := os.Getenv("REDIS_PASSWORD"); password != "" {
		if _, err := ask(conn, in, "AUTH", password); err != nil {
			return nil, err
		}
	}
	return ask(conn, in, command...)
}

func ask(conn net.Conn, in *bufio.Reader, command ...string) ([]string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(command))
	for _, arg := range command {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := conn.Write([]byte(b.String())); err != nil {
		return nil, err
	}
	return answer(in)
}

// answer reads a reply of the protocol RESP2.
func answer(in *bufio.Reader) ([]string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return nil, errors.New("redis sent an empty line")
	}
	switch rest := line[1:]; line[0] {
	case '-':
		return nil, errors.New("redis: " + rest)
	case '$':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 || n > 1<<20 {
			return nil, err
		}
		buf := make([]byte, n+2)
		for read := 0; read < len(buf); {
			k, err := in.Read(buf[read:])
			if err != nil {
				return nil, err
			}
			read += k
		}
		return []string{string(buf[:n])}, nil
	case '*':
		n, err := strconv.Atoi(rest)
		if err != nil {
			return nil, err
		}
		var all []string
		for range n {
			one, err := answer(in)
			if err != nil {
				return nil, err
			}
			all = append(all, one...)
		}
		return all, nil
	default:
		return []string{rest}, nil
	}
}
