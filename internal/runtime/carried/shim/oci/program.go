package oci

import (
	"encoding/binary"
	"errors"
)

// program is what skiff-init (carried/init/init.c) carries out, step by step.
type program struct {
	steps []step
}

// step is an operation with up to six operands: numbers (uint64), strings, byte strings, lists of strings.
type step struct {
	op       operation
	operands []any
}

// operation says what a step does; the numbers are those of init.c.
type operation uint64

const (
	enterRoot     operation = 1  // path on the host, 1 if it is to be private
	mountNew      operation = 2  // type, source, target, flags of mount(2), data, resolve flags
	bind          operation = 3  // source on the host, target, with what is below, attributes (to be set, and in the high half to be cleared), propagation, is a directory
	makeDevice    operation = 4  // path, mode with type, device number, uid, gid
	link          operation = 5  // what it points to, path
	pivot         operation = 6  //
	ownNull       operation = 7  //
	makeReadOnly  operation = 8  // path of a mount
	freeze        operation = 9  // path, which need not be there
	hide          operation = 10 // likewise
	keyring       operation = 11 // name
	bound         operation = 12 // capabilities to keep, a bit each
	become        operation = 13 // uid, gid, additional gids of 4 bytes each, their number
	capabilities  operation = 14 // effective, permitted, inheritable, ambient
	workdir       operation = 15 // path, 1 if this is the last try
	filter        operation = 16 // instructions, their size in bytes, flags of seccomp(2)
	noNewPrivs    operation = 17 //
	umask         operation = 18 // mask
	unshare       operation = 19 // flags
	execute       operation = 20 // files to try, arguments, environment, then as filter, or nothing
	makeDirectory operation = 21 // path
	enter         operation = 22 // descriptor of a process, namespaces
	executeNow    operation = 23 // as execute
)

const (
	word = 8
	// stepSize is the size of a step in init.c: its operation and six operands.
	stepSize = 7 * word
	// maxProgram is the size of init.c's buffer.
	maxProgram = 1 << 19
)

func (p *program) add(op operation, operands ...any) {
	p.steps = append(p.steps, step{op, operands})
}

// errTooLong says that a program does not fit into skiff-init's memory.
var errTooLong = errors.New("more is asked of a container than fits into its program")

// encode returns the program as it is sent: the size of what follows, the number of steps, the steps, and
// what they point to. Numbers are words of the machine; offsets count from the first step.
func (p *program) encode() ([]byte, error) {
	body := make([]byte, len(p.steps)*stepSize)
	for i, s := range p.steps {
		at := i * stepSize
		binary.NativeEndian.PutUint64(body[at:], uint64(s.op))
		for j, operand := range s.operands {
			var value uint64
			switch v := operand.(type) {
			case uint64:
				value = v
			case string:
				body, value = appendText(body, v)
			case []byte:
				body = align(body)
				value = uint64(len(body))
				body = append(body, v...)
			case []string:
				body, value = appendList(body, v)
			}
			binary.NativeEndian.PutUint64(body[at+(j+1)*word:], value)
		}
	}
	if len(body) > maxProgram {
		return nil, errTooLong
	}
	out := binary.NativeEndian.AppendUint64(nil, uint64(len(body)+word))
	out = binary.NativeEndian.AppendUint64(out, uint64(len(p.steps)))
	return append(out, body...), nil
}

func appendText(body []byte, s string) ([]byte, uint64) {
	at := uint64(len(body))
	return append(append(body, s...), 0), at
}

// appendList appends strings and a list of their offsets, which ends with 0, and returns where the list is.
func appendList(body []byte, list []string) ([]byte, uint64) {
	offsets := make([]uint64, 0, len(list)+1)
	for _, s := range list {
		var at uint64
		body, at = appendText(body, s)
		offsets = append(offsets, at)
	}
	body = align(body)
	start := uint64(len(body))
	for _, at := range append(offsets, 0) {
		body = binary.NativeEndian.AppendUint64(body, at)
	}
	return body, start
}

func align(body []byte) []byte {
	for len(body)%word != 0 {
		body = append(body, 0)
	}
	return body
}
