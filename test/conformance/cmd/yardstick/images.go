package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"skiff.dev/skiff/test/conformance/images"
)

// makeImages makes the suite's images, all or those archives that are named, and prints where each is.
func makeImages(ctx context.Context, names []string) error {
	source, err := module()
	if err != nil {
		return err
	}
	cache, err := imageCache()
	if err != nil {
		return err
	}
	made, err := images.Build(ctx, images.Options{Source: source, Cache: cache, Only: names, Log: os.Stderr})
	if err != nil {
		return err
	}
	for _, a := range made {
		fmt.Printf("%s\t%s\n", a.File, strings.Join(a.Names, " "))
	}
	return nil
}

// registry serves the archives until it is interrupted.
func registry(ctx context.Context, args []string) error {
	cache, err := imageCache()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("registry", flag.ContinueOnError)
	flags.StringVar(&cache, "images", cache, "the folder of the archives")
	listen := flags.String("listen", "127.0.0.1:5000", "the address to serve HTTP on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return images.Serve(ctx, cache, *listen, os.Stderr)
}
