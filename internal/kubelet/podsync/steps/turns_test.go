package steps

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnsGoByStageThenByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1)
		busy, err := turns.take(t.Context(), makingSandbox)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		ask := func(name string, s stage) {
			go func() {
				done, err := turns.take(t.Context(), s)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, name) // one at a time
				done()
			}()
			synctest.Wait()
		}
		ask("first sandbox", makingSandbox)
		ask("second sandbox", makingSandbox)
		ask("first container", startingContainer)
		ask("second container", startingContainer)
		if len(order) != 0 {
			t.Fatalf("%v went before their turn", order)
		}
		busy()
		busy() // again: no turn is given back twice
		synctest.Wait()
		if want := []string{"first container", "second container", "first sandbox", "second sandbox"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		if turns.free != 1 {
			t.Errorf("%d turns are free, want 1", turns.free)
		}
	})
}

func TestTurnsAreNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1)
		stuck, err := turns.take(t.Context(), makingSandbox)
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), lent/2)
		defer cancel()
		if _, err := turns.take(short, makingSandbox); err == nil {
			t.Error("one who gave up got a turn")
		}
		began := time.Now()
		next, err := turns.take(t.Context(), makingSandbox)
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > lent {
			t.Errorf("waited %v behind one that is stuck, want no more than %v", waited, lent)
		}
		next()
		stuck()
		if turns.free != 1 || len(turns.queue) != 0 {
			t.Errorf("%d turns free and %d waiting, want 1 and 0", turns.free, len(turns.queue))
		}
	})
}
