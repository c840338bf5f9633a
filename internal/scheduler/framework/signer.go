package framework

import (
	"encoding/binary"
	"slices"
)

// A Signer collects what the plugins read of a pod. Everything written is
// self-delimiting, so that different sequences never sign alike.
type Signer struct {
	buf []byte
}

// Reset empties the signer for the next pod.
func (s *Signer) Reset() { s.buf = s.buf[:0] }

// Class returns the class of pods that have signed like this.
func (s *Signer) Class() string { return string(s.buf) }

// Int writes a number, such as the length of a list that follows.
func (s *Signer) Int(n int64) { s.buf = binary.AppendVarint(s.buf, n) }

// Bool writes a truth value.
func (s *Signer) Bool(b bool) {
	if b {
		s.Int(1)
	} else {
		s.Int(0)
	}
}

// String writes one string.
func (s *Signer) String(v string) {
	s.Int(int64(len(v)))
	s.buf = append(s.buf, v...)
}

// Map writes a map independent of its order.
func (s *Signer) Map(m map[string]string) {
	s.Int(int64(len(m)))
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		s.String(k)
		s.String(m[k])
	}
}

// Resources writes the amounts of r.
func (s *Signer) Resources(r *Resources) {
	s.Int(r.MilliCPU)
	s.Int(r.Memory)
	s.Int(r.EphemeralStorage)
	s.Int(int64(len(r.Scalar)))
	for _, name := range r.scalarNames() {
		s.String(string(name))
		s.Int(r.Scalar[name])
	}
}

// Message writes an API type, nil included.
func (s *Signer) Message(m Message) {
	if m == nil {
		s.Int(-1)
		return
	}
	size := m.Size()
	s.Int(int64(size))
	start := len(s.buf)
	s.buf = slices.Grow(s.buf, size)[:start+size]
	// The only error is a buffer that is too small, and it is Size long.
	_, _ = m.MarshalToSizedBuffer(s.buf[start:])
}

// Message is a type that has a protobuf encoding, as API types have.
type Message interface {
	Size() int
	MarshalToSizedBuffer(b []byte) (int, error)
}
