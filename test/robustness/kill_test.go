package robustness

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	clients = 8
	keys    = 6
	// startup is what a server gets on a slow machine; the figures logged tell
	// what it takes.
	startup = 30 * time.Second
)

// TestKill kills the server at random instants while clients write (I1, I2, I4,
// I5, I6).
func TestKill(t *testing.T) {
	kills := 30
	if long() {
		kills = 500
	}
	s := newServer(t)
	s.start()
	s.ready(startup)
	api := s.client()
	watch := follow(t, api)
	load := record(t, api, clients, keys)
	var took, own []time.Duration
	for n := range kills {
		load.await(10 * (n + 1))
		time.Sleep(time.Duration(20+rand.IntN(500)) * time.Millisecond) // the random instant
		s.kill()
		if rand.IntN(5) == 0 { // also in the middle of a start
			s.start()
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
			s.kill()
		}
		began, before := time.Now(), queued(t, os.Getpid())
		s.start()
		s.ready(startup)
		took = append(took, time.Since(began))
		own = append(own, max(0, took[n]-queued(t, s.cmd.Process.Pid)-(queued(t, os.Getpid())-before)))
	}
	load.finish(keys)
	watch.finish(load)
	slices.Sort(took)
	slices.Sort(own)
	answered, silent := load.counts()
	t.Logf("%d kills: ready again in %v (median; %v without waiting for a processor), %v (longest); %d operations answered, %d not; the watch resumed %d times",
		kills, took[len(took)/2].Round(time.Millisecond), own[len(own)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), answered, silent, watch.resent)
	if median := own[len(own)/2]; median > 3*time.Second {
		t.Errorf("ready again only after %v, in which it did not wait for a processor", median)
	}
}

// TestFreeze stops the server for five seconds in the middle of its work and
// lets it go on, as a machine that is suspended does.
func TestFreeze(t *testing.T) {
	s := newServer(t)
	s.start()
	s.ready(startup)
	api := s.client()
	watch := follow(t, api)
	load := record(t, api, clients, keys)
	time.Sleep(500 * time.Millisecond) // some load first
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.ready(startup)
	time.Sleep(500 * time.Millisecond) // and some after
	load.finish(keys)
	watch.finish(load)
	if _, silent := load.counts(); silent > 0 {
		t.Errorf("%d operations were not answered, though clients wait longer than the server was stopped", silent)
	}
}

// TestSecondStart starts a second server on the same data directory: it must
// refuse, say why, and leave the first one alone.
func TestSecondStart(t *testing.T) {
	s := newServer(t)
	s.start()
	s.ready(startup)
	second := newServer(t)
	second.dir = s.dir
	ctx, cancel := context.WithTimeout(t.Context(), startup)
	defer cancel()
	out, err := second.run(ctx)
	if err == nil || ctx.Err() != nil {
		t.Errorf("the second server did not refuse: %v\n%s", err, out)
	}
	if want := "in use by another skiff"; !strings.Contains(out, want) {
		t.Errorf("it does not say %q: %s", want, out)
	}
	if !s.isReady() {
		t.Errorf("the first server is not ready any more: %s", s.out)
	}
}
