package pod

import (
	"testing"

	"skiff.dev/skiff/internal/check"
)

func BenchmarkValidateCreate(b *testing.B) {
	p := simple()
	b.ReportAllocs()
	for b.Loop() {
		ValidateCreate(check.NewReport(), p)
	}
}

func BenchmarkDefault(b *testing.B) {
	p := simple()
	b.ReportAllocs()
	for b.Loop() {
		Default(p)
	}
}
