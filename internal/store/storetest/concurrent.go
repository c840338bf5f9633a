package storetest

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"skiff.dev/skiff/internal/store"
)

// testConcurrentWriters has 64 writers count up one key each and all together
// another; nothing may be lost and every revision is someone's.
func testConcurrentWriters(t *testing.T, s store.Store) {
	const writers, rounds = 64, 10
	start := revision(t, s)
	w := watch(t, s, "/", start)
	ctx := within(t)
	increment := func(own string) error {
		for {
			kv, found, _, err := s.Get(ctx, "/shared", 0)
			if err != nil {
				return err
			}
			n := 0
			if found {
				n, _ = strconv.Atoi(string(kv.Value))
			}
			res, err := s.Commit(ctx, store.Txn{
				If: []store.Cond{{Key: "/shared", ModRev: kv.ModRev}},
				Do: []store.Op{put("/shared", strconv.Itoa(n+1)), put(own, strconv.Itoa(n+1))},
			})
			if err != nil || res.OK {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range rounds {
				if err := increment(fmt.Sprintf("/own/%02d", i)); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	kv, _, now, err := s.Get(ctx, "/shared", 0)
	if err != nil {
		t.Fatal(err)
	}
	if string(kv.Value) != strconv.Itoa(writers*rounds) || now != start+writers*rounds {
		t.Fatalf("%d increments gave %s in %d revisions", writers*rounds, kv.Value, now-start)
	}
	for i, ev := range w.events(2 * writers * rounds) {
		if want := strconv.Itoa(i/2 + 1); string(ev.KV.Value) != want {
			t.Fatalf("event %d has value %s, want %s", i, ev.KV.Value, want)
		}
	}
}

// register is what a client did to one key: a compare-and-set by ModRev if
// write is set, else a read.
type register struct {
	write bool
	cond  int64
	value string
}

// registerState is a key as seen by a read or left by a write.
type registerState struct {
	ok    bool
	rev   int64
	value string
}

var registerModel = porcupine.Model{
	Init: func() any { return registerState{} },
	Step: func(state, input, output any) (bool, any) {
		now, in, out := state.(registerState), input.(register), output.(registerState)
		if !in.write {
			return out.rev == now.rev && out.value == now.value, now
		}
		if in.cond != now.rev {
			return !out.ok && out.rev == now.rev && out.value == now.value, now
		}
		return out.ok && out.rev > now.rev, registerState{rev: out.rev, value: in.value}
	},
}

// testLinearizable records what concurrent clients do to a key and has
// porcupine look for an order that explains it.
func testLinearizable(t *testing.T, s store.Store) {
	const clients, rounds = 8, 40
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		wg      sync.WaitGroup
	)
	ctx := within(t)
	begin := time.Now()
	clock := int64(0) // orders calls that the clock cannot tell apart, as in virtual time
	tick := func() int64 {
		mu.Lock()
		defer mu.Unlock()
		clock++
		return time.Since(begin).Nanoseconds()<<16 + clock
	}
	step := func(client, round int, last int64) (int64, error) {
		in := register{write: round%3 != 0, cond: last, value: fmt.Sprintf("%d-%d", client, round)}
		call := tick()
		var out registerState
		if in.write {
			res, err := s.Commit(ctx, store.Txn{If: []store.Cond{{Key: "/r", ModRev: last}}, Do: []store.Op{put("/r", in.value)}})
			if err != nil {
				return 0, err
			}
			out = registerState{ok: res.OK, rev: res.Rev}
			if !res.OK {
				out.rev = 0
				for _, kv := range res.Now {
					out.rev, out.value = kv.ModRev, string(kv.Value)
				}
			}
		} else {
			kv, _, _, err := s.Get(ctx, "/r", 0)
			if err != nil {
				return 0, err
			}
			out = registerState{rev: kv.ModRev, value: string(kv.Value)}
		}
		op := porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: tick()}
		mu.Lock()
		history = append(history, op)
		mu.Unlock()
		return out.rev, nil
	}
	for client := range clients {
		wg.Go(func() {
			var last int64
			for round := range rounds {
				var err error
				if last, err = step(client, round, last); err != nil {
					t.Errorf("client %d: %v", client, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if !porcupine.CheckOperations(registerModel, history) {
		t.Fatalf("no order of these operations explains them: %+v", history)
	}
}
