// Command probe is the program in the runtime test's container: it prints a line and exits with the
// code of its argument, or, without one, prints a line per SIGUSR1 until it is terminated. With cat and names
// it prints files.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "cat" {
		for _, name := range os.Args[2:] {
			data, err := os.ReadFile(name)
			fmt.Println(name, err)
			os.Stdout.Write(data)
		}
		return
	}
	fmt.Println("hello from the container")
	if len(os.Args) > 1 {
		code, err := strconv.Atoi(os.Args[1])
		if err != nil {
			code = 99
		}
		os.Exit(code)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
	for s := range signals {
		if s == syscall.SIGTERM {
			return
		}
		fmt.Println("still here")
	}
}
