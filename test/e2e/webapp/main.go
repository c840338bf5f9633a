// Command webapp is the application that the end-to-end tests run in pods.
//
//	GET /hostname   the pod's name
//	GET /client     the address the request came from
//	GET /env        the environment
//	GET /slow       answers after a second
//	GET /healthz    200, or 500 after GET /break
//	GET /eat?mb=N   uses N MiB of memory
//	GET /exit?code=N
//
// With arguments it is a client: "get URL" prints what it gets, "host NAME" and
// "srv NAME" what the DNS says, "eat N" uses N MiB of memory and sleeps.
//
// On :9000 it echoes what it reads on a TCP connection, line by line, each
// with the pod's name before it; on :9001 datagrams.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 {
		if err := ask(os.Args[1], os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(echo(host)) }()
	go func() { log.Fatal(datagrams(host)) }()
	server := &http.Server{Addr: ":8080", Handler: handler(host), ReadHeaderTimeout: time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	finished := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(finished)
		log.Print("told to end")
		if err := server.Shutdown(context.Background()); err != nil {
			log.Print(err)
		}
	})
	log.Print("serving")
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-finished
}

func ask(what, of string) error {
	switch what {
	case "get":
		return fetch(of)
	case "host":
		addresses, err := net.LookupHost(of)
		slices.Sort(addresses)
		fmt.Println(strings.Join(addresses, "\n"))
		return err
	case "srv":
		_, targets, err := net.LookupSRV("", "", of)
		for _, t := range targets {
			fmt.Println(t.Target, t.Port)
		}
		return err
	case "eat":
		eat(of)
		time.Sleep(time.Hour)
		return nil
	}
	return errors.New("what?")
}

func eat(mb string) {
	n, _ := strconv.Atoi(mb)
	block := make([]byte, n<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	eaten = append(eaten, block)
}

func fetch(url string) error {
	res, err := (&http.Client{Timeout: 3 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	_, err = io.Copy(os.Stdout, res.Body)
	return err
}

var eaten [][]byte

func handler(host string) http.Handler {
	var broken atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })
	mux.HandleFunc("GET /client", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, strings.Join(os.Environ(), "\n"))
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(time.Second)
		fmt.Fprintln(w, host)
	})
	mux.HandleFunc("GET /break", func(http.ResponseWriter, *http.Request) { broken.Store(true) })
	mux.HandleFunc("GET /mend", func(http.ResponseWriter, *http.Request) { broken.Store(false) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			http.Error(w, "broken", http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /eat", func(_ http.ResponseWriter, r *http.Request) { eat(r.FormValue("mb")) })
	mux.HandleFunc("GET /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	return mux
}

func echo(host string) error {
	l, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			for in := bufio.NewScanner(conn); in.Scan(); {
				if _, err := fmt.Fprintf(conn, "%s %s\n", host, in.Text()); err != nil {
					return
				}
			}
		}()
	}
}

func datagrams(host string) error {
	conn, err := net.ListenPacket("udp", ":9001")
	if err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte(host+" "+string(buf[:n])), from); err != nil {
			return err
		}
	}
}
