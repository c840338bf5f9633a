package podsync

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

func TestReplacing(t *testing.T) {
	spec := v1.Container{Name: "a", Image: "new"}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{spec}}}
	now := time.Unix(1000, 0)
	old := Container{Name: "a", State: Exited, Hash: "old", FinishedAt: now.Add(-100 * time.Millisecond)}
	with := func(change func(*Container)) Container {
		c := old
		change(&c)
		return c
	}
	until := old.FinishedAt.Add(between)
	for name, tt := range map[string]struct {
		seen []Container
		want time.Time
	}{
		"stopped":         {[]Container{old}, until},
		"and made anew":   {[]Container{with(func(c *Container) { c.State, c.Hash = Created, Hash(&spec) }), old}, until},
		"and running":     {[]Container{with(func(c *Container) { c.State, c.Hash = Running, Hash(&spec) }), old}, time.Time{}},
		"still running":   {[]Container{with(func(c *Container) { c.State = Running })}, time.Time{}},
		"crashed":         {[]Container{with(func(c *Container) { c.Hash = Hash(&spec) })}, time.Time{}},
		"for too long":    {[]Container{with(func(c *Container) { c.FinishedAt = now.Add(-between) })}, time.Time{}},
		"in the future":   {[]Container{with(func(c *Container) { c.FinishedAt = now.Add(time.Hour) })}, time.Time{}},
		"somebody else's": {[]Container{with(func(c *Container) { c.Name = "b" })}, time.Time{}},
		"nothing":         {nil, time.Time{}},
	} {
		if got := Replacing(pod, Seen{Containers: tt.seen}, now); !got.Equal(tt.want) {
			t.Errorf("%s: until %v, want %v", name, got, tt.want)
		}
	}
}
