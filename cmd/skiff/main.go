// Command skiff is Kubernetes in one binary.
package main

import (
	"os"

	"skiff.dev/skiff/internal/app"
)

func main() { os.Exit(app.Main(os.Args)) }
