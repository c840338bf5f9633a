// Command skiff-cni is skiff's network plugin, for when skiff itself does not
// answer the calls of it. It is a program of its own, and small, because it is
// then started for every pod that comes and goes.
package main

import (
	"os"

	"skiff.dev/skiff/internal/cni"
)

func main() { os.Exit(cni.Main()) }
