package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// feeder writes to a table as a transport does.
type feeder struct {
	table *watchcache.Table
	rev   int64
}

func newFeeder(options ...watchcache.Option) *feeder {
	f := &feeder{table: watchcache.NewTable("configmaps", options...), rev: 1}
	f.table.Replace(nil, 1)
	return f
}

func (f *feeder) put(name, value string) {
	f.rev++
	obj := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: strconv.FormatInt(f.rev, 10)},
		Data:       map[string]string{"v": value},
	}
	f.table.Apply([]watchcache.Change{{Key: meta.KeyOf(obj), Object: obj, Rev: f.rev}}, f.rev)
}

func (f *feeder) remove(name string) {
	f.rev++
	f.table.Apply([]watchcache.Change{{Key: meta.Key{Namespace: "default", Name: name}, Rev: f.rev}}, f.rev)
}

func text(ch Change[*corev1.ConfigMap]) string {
	switch {
	case ch.Created:
		return fmt.Sprintf("+%s=%s", ch.New.Name, ch.New.Data["v"])
	case ch.Deleted:
		return "-" + ch.Old.Name
	}
	return fmt.Sprintf("%s=%s->%s", ch.New.Name, ch.Old.Data["v"], ch.New.Data["v"])
}

func TestFollowTellsEveryChangeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeeder()
		f.put("a", "1")
		ctx, cancel := context.WithCancel(t.Context())
		var seen []string
		batches := 0
		done := make(chan error, 1)
		go func() {
			done <- Cache[*corev1.ConfigMap]{table: f.table}.Follow(ctx, func(ch Change[*corev1.ConfigMap]) { seen = append(seen, text(ch)) }, func() { batches++ })
		}()
		synctest.Wait()
		f.put("a", "2")
		f.put("b", "1")
		f.remove("a")
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if diff := cmp.Diff([]string{"+a=1", "a=1->2", "+b=1", "-a"}, seen); diff != "" {
			t.Error(diff)
		}
		if batches < 2 {
			t.Errorf("%d batches", batches)
		}
	})
}

// A follower that is so slow that it misses changes is told the difference.
func TestFollowMendsWhatASlowFollowerMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeeder(watchcache.WithEvents(2))
		f.put("gone", "1")
		f.put("stays", "1")
		f.put("changes", "1")
		ctx, cancel := context.WithCancel(t.Context())
		state := map[string]string{}
		hold := make(chan struct{})
		held := false
		done := make(chan error, 1)
		go func() {
			done <- Cache[*corev1.ConfigMap]{table: f.table}.Follow(ctx, func(ch Change[*corev1.ConfigMap]) {
				if ch.Deleted {
					delete(state, ch.Old.Name)
					return
				}
				state[ch.New.Name] = ch.New.Data["v"]
			}, func() {
				if !held {
					held = true
					<-hold
				}
			})
		}()
		synctest.Wait()
		f.remove("gone")
		for i := range 10 {
			f.put("changes", strconv.Itoa(i))
		}
		f.put("new", "1")
		close(hold)
		synctest.Wait()
		cancel()
		<-done
		if diff := cmp.Diff(map[string]string{"stays": "1", "changes": "9", "new": "1"}, state); diff != "" {
			t.Error(diff)
		}
	})
}

func TestResourceOf(t *testing.T) {
	for want, got := range map[string]string{
		"endpoints":              ResourceOf[*corev1.Endpoints]().Resource, //nolint:staticcheck // still served
		"configmaps":             ResourceOf[*corev1.ConfigMap]().Resource,
		"persistentvolumeclaims": ResourceOf[*corev1.PersistentVolumeClaim]().Resource,
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
