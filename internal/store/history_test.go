package store_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
)

func write(t *testing.T, s store.Store) int64 {
	t.Helper()
	res, err := s.Commit(t.Context(), store.Txn{Do: []store.Op{{Key: "/k", Value: []byte("x")}}})
	if err != nil {
		t.Fatal(err)
	}
	return res.Rev
}

func TestHistory(t *testing.T) {
	for _, shared := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := mem.New()
			defer s.Close()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{}, 2)
			for range 2 { // two API servers on one store
				go func() {
					store.History{Store: s, Keep: 5 * time.Minute, Shared: shared, Log: slog.Default()}.Run(ctx)
					done <- struct{}{}
				}()
			}
			synctest.Wait()
			old := write(t, s)
			time.Sleep(6 * time.Minute)
			synctest.Wait()
			if _, _, _, err := s.Get(t.Context(), "/k", old); err != nil {
				t.Errorf("shared %v: history of 6 minutes is gone: %v", shared, err)
			}
			young := write(t, s)
			time.Sleep(5 * time.Minute)
			write(t, s)
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if _, _, _, err := s.Get(t.Context(), "/k", old); !errors.Is(err, store.ErrCompacted) {
				t.Errorf("shared %v: history of 16 minutes: %v, want ErrCompacted", shared, err)
			}
			if _, _, _, err := s.Get(t.Context(), "/k", young); err != nil && !errors.Is(err, store.ErrCompacted) {
				t.Errorf("shared %v: %v", shared, err)
			}
			cancel()
			<-done
			<-done
		})
	}
}

func TestTxnValidate(t *testing.T) {
	many := make([]store.Op, 20)
	for i := range many {
		many[i].Key = string(rune('a' + i))
	}
	twice := append(append([]store.Op(nil), many...), store.Op{Key: "b"})
	tests := map[string]struct {
		txn store.Txn
		bad bool
	}{
		"empty":      {store.Txn{}, false},
		"many":       {store.Txn{Do: many}, false},
		"many twice": {store.Txn{Do: twice}, true},
		"few twice":  {store.Txn{Do: []store.Op{{Key: "a"}, {Key: "a", Delete: true}}}, true},
		"no key":     {store.Txn{Do: []store.Op{{}}}, true},
		"condition":  {store.Txn{If: []store.Cond{{ModRev: 1}}}, true},
	}
	for name, test := range tests {
		if err := test.txn.Validate(); (err != nil) != test.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}
