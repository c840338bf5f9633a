package workload

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func value(s string) *intstr.IntOrString {
	v := intstr.Parse(s)
	return &v
}

func TestBoundsOf(t *testing.T) {
	tests := []struct {
		surge, unavailable string
		replicas           int32
		want               Bounds
	}{
		{"25%", "25%", 10, Bounds{3, 2}},
		{"25%", "25%", 1, Bounds{1, 0}},
		{"0", "25%", 1, Bounds{0, 1}},
		{"0%", "0%", 5, Bounds{0, 1}},
		{"2", "50", 10, Bounds{2, 10}},
	}
	for _, tt := range tests {
		if got := BoundsOf(value(tt.surge), value(tt.unavailable), tt.replicas); got != tt.want {
			t.Errorf("BoundsOf(%s, %s, %d) = %+v, want %+v", tt.surge, tt.unavailable, tt.replicas, got, tt.want)
		}
	}
}

func TestShrink(t *testing.T) {
	tests := []struct {
		name   string
		want   int32
		newest Set
		old    []Set
		b      Bounds
		sizes  []int32
	}{
		{"nothing new yet, one may go", 10, Set{}, []Set{{Replicas: 10, Available: 10}}, Bounds{3, 2}, []int32{8}},
		{"new pods not available hold the old", 10, Set{Replicas: 3}, []Set{{Replicas: 10, Available: 10}}, Bounds{3, 2}, []int32{8}},
		{"broken old pods go first", 10, Set{}, []Set{{Replicas: 8, Available: 8, Age: 2}, {Replicas: 2, Available: 0, Age: 1}}, Bounds{3, 2}, []int32{8, 0}},
		{"all new available", 4, Set{Replicas: 4, Available: 4}, []Set{{Replicas: 2, Available: 2}}, Bounds{1, 1}, []int32{0}},
		{"a set shrunk a moment ago tells of pods that go", 4, Set{Replicas: 3, Available: 2}, []Set{{Replicas: 3, Available: 4}}, Bounds{2, 1}, []int32{1}},
		{"no slack", 3, Set{Replicas: 1}, []Set{{Replicas: 3, Available: 3}}, Bounds{1, 0}, []int32{3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.sizes, Shrink(tt.want, tt.newest, tt.old, tt.b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func drawSets(t *rapid.T, name string) []Set {
	n := rapid.IntRange(1, 5).Draw(t, name)
	sets := make([]Set, n)
	for i := range sets {
		r := rapid.Int32Range(0, 20).Draw(t, "replicas")
		sets[i] = Set{Replicas: r, Available: rapid.Int32Range(0, r).Draw(t, "available"), Age: int64(i)}
	}
	return sets
}

// I19: a step never breaks the bounds if they held before.
func TestStepsKeepTheBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Int32Range(0, 30).Draw(t, "want")
		b := BoundsOf(value(rapid.SampledFrom([]string{"0", "1", "25%", "100%"}).Draw(t, "surge")),
			value(rapid.SampledFrom([]string{"0", "1", "25%", "100%"}).Draw(t, "unavailable")), want)
		sets := drawSets(t, "sets")
		newest, old := sets[len(sets)-1], sets[:len(sets)-1]
		var total, available int32
		for _, s := range sets {
			total += s.Replicas
			available += s.Available
		}
		grown := Surge(want, newest.Replicas, total, b)
		if after := total - newest.Replicas + grown; grown > newest.Replicas && after > want+b.Surge {
			t.Fatalf("%d pods exceed %d + %d", after, want, b.Surge)
		}
		sizes := Shrink(want, newest, old, b)
		left := newest.Available
		for i, n := range sizes {
			if n > old[i].Replicas || n < 0 {
				t.Fatalf("set %d: %d -> %d", i, old[i].Replicas, n)
			}
			left += min(n, old[i].Available) // unavailable pods are deleted first
		}
		if left < min(available, want-b.Unavailable) {
			t.Fatalf("%d available pods left, %d wanted", left, want-b.Unavailable)
		}
	})
}

func TestShareAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sets := drawSets(t, "sets")
		total := rapid.Int32Range(0, 100).Draw(t, "total")
		whole := sum(sets)
		var got int32
		for _, n := range Share(sizedFor(t, sets, 0), total) {
			if n < 0 {
				t.Fatal("a set of negative size")
			}
			got += n
		}
		if whole > 0 && got != total {
			t.Fatalf("sizes add up to %d, want %d", got, total)
		}
	})
}

func sum(sets []Set) (n int32) {
	for _, s := range sets {
		n += s.Replicas
	}
	return n
}

// sizedFor draws what the sets were last sized for.
func sizedFor(t *rapid.T, sets []Set, least int32) []Set {
	for i := range sets {
		sets[i].SizedFor = rapid.Int32Range(least, 60).Draw(t, "sized for")
	}
	return sets
}

// TestShareGoesOn has some sets written before the one who shared is
// interrupted: the next one must come to the same sizes.
func TestShareGoesOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sets := sizedFor(t, drawSets(t, "sets"), 1)
		total := rapid.Int32Range(61, 120).Draw(t, "total")
		if rapid.Bool().Draw(t, "smaller") {
			total = rapid.Int32Range(0, 60).Draw(t, "total")
			for i := range sets {
				sets[i].SizedFor = rapid.Int32Range(total+1, 120).Draw(t, "sized for")
			}
		}
		want := Share(sets, total)
		if sum(sets) == 0 {
			return // a whole that was nothing is not shared
		}
		for i := range sets {
			if rapid.Bool().Draw(t, "written") {
				sets[i].Replicas, sets[i].SizedFor = want[i], total
			}
		}
		if diff := cmp.Diff(want, Share(sets, total)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestShareKeepsProportions(t *testing.T) {
	got := Share([]Set{{Replicas: 8, Age: 1, SizedFor: 13}, {Replicas: 5, Age: 2, SizedFor: 13}}, 18)
	if diff := cmp.Diff([]int32{11, 7}, got); diff != "" {
		t.Error(diff)
	}
}
