package runtime

// Reexec tells whether args, those of the process, ask for a part of the runtime to be run in this
// process, and then runs it. None do: containerd is a program of its own, because as a part of the skiff
// binary it takes twice the memory (docs/design/0003-runtime-embedding.md).
//
// Deprecated: the call can be left out.
func Reexec([]string) (handled bool, exitCode int) { return false, 0 }
