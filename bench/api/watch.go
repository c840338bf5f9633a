package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

// errSeen ends a watch that has got all events.
var errSeen = errors.New("all events seen")

// fanOut opens the watches, changes one object again and again, and measures
// from before each request to the arrival of its event at each watcher.
func (b *bench) fanOut(ctx context.Context, name, media string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(watchDeadline, func() { cancel(errors.New("not all events arrived in time")) })
	defer deadline.Stop()
	watchers, err := load.Dial(b.kubeconfig, b.watchers/100+1)
	if err != nil {
		return err
	}
	var times measure.Times
	var opened, seen sync.WaitGroup
	var resumed atomic.Int64
	opened.Add(b.watchers)
	path := b.path() + "?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dobject-000000"
	for range b.watchers {
		seen.Go(func() {
			once := sync.OnceFunc(opened.Done)
			defer once()
			left := b.events
			again, err := watchers.Follow(ctx, path, media, once, func(event []byte) error {
				sent, ok := markOf(event)
				if !ok {
					return nil
				}
				times.Add(time.Since(sent))
				if left--; left == 0 {
					return errSeen
				}
				return nil
			})
			resumed.Add(int64(again))
			if !errors.Is(err, errSeen) {
				cancel(err)
			}
		})
	}
	opened.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	before, err := measure.Of(b.pids...)
	if err != nil {
		return err
	}
	start := time.Now()
	for range b.events {
		body, err := load.Encode(media, b.object(0, fmt.Sprintf("sent=%d;", time.Now().UnixNano())))
		if err != nil {
			return err
		}
		if _, err := b.client.Discard(ctx, "PUT", b.path("object-000000"), media, body); err != nil {
			return err
		}
	}
	seen.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	n := float64(b.events * b.watchers)
	key := "api." + name + ".watch"
	b.out.Add(key+".rate", "event/s", n/time.Since(start).Seconds(), "%d changes to %d watchers, %s", b.events, b.watchers, name)
	b.out.Add(key+".p50", "s", times.Percentile(50), "watch, %s: request to arrival, median", name)
	b.out.Add(key+".p99", "s", times.Percentile(99), "watch, %s: request to arrival, 99th percentile", name)
	b.out.Add(key+".resumed", "times", float64(resumed.Load()), "watch, %s: streams that the server ended and the client opened again", name)
	return b.spent(before, key+".cpu", n, "watch, %s: server CPU per event delivered", name)
}

// markOf finds the moment at which an event's change was sent.
func markOf(event []byte) (time.Time, bool) {
	_, rest, ok := bytes.Cut(event, []byte("sent="))
	if !ok {
		return time.Time{}, false
	}
	digits, _, ok := bytes.Cut(rest, []byte(";"))
	if !ok {
		return time.Time{}, false
	}
	nanos, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(0, nanos), true
}
