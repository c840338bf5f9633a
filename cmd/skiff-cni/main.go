// Command skiff-cni is skiff's network plugin. It is a program of its own, and
// small, because the runtime starts it for every pod that comes and goes.
package main

import (
	"os"

	"skiff.dev/skiff/internal/cni"
)

func main() {
	if cni.Main() != nil {
		os.Exit(1)
	}
}
