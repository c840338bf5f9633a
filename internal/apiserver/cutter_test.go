package apiserver

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCutter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cuts := 0
		c := newCutter(func() { cuts++ })
		time.Sleep(2 * time.Hour) // nothing has begun
		c.within(time.Second)
		time.Sleep(time.Second / 2)
		c.done()
		time.Sleep(time.Hour)
		if cuts != 0 {
			t.Fatal("cut what was done in time")
		}
		c.within(time.Second)
		time.Sleep(2 * time.Second)
		if cuts != 1 {
			t.Fatalf("cut %d times what took too long", cuts)
		}
		c.within(time.Second)
		c.end()
		time.Sleep(time.Hour)
		if cuts != 1 {
			t.Fatal("cut after the end")
		}
	})
}
