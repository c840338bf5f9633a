package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"skiff.dev/skiff/test/conformance/build"
	"skiff.dev/skiff/test/conformance/stock"
)

func programs(ctx context.Context, names []string) error {
	source, err := module()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = append(build.Cluster(), build.Suite...)
	}
	dir, err := build.Programs(ctx, source, os.Stderr, names...)
	if err != nil {
		return err
	}
	fmt.Println(dir)
	return nil
}

// clusterDir is where the cluster of a name lives. $CLUSTER chooses a name, so that several people can have
// one each on a machine.
func clusterDir(name string) (string, error) {
	if own := os.Getenv("CLUSTER"); own != "" {
		name = own
	}
	cache, err := build.Cache()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "clusters", name), nil
}

func stockUp(ctx context.Context, _ []string) error {
	source, err := module()
	if err != nil {
		return err
	}
	dir, err := clusterDir("stock")
	if err != nil {
		return err
	}
	made, err := build.Programs(ctx, source, os.Stderr, build.Cluster()...)
	if err != nil {
		return err
	}
	c, err := stock.Up(ctx, stock.Config{Dir: dir, Programs: made, Log: os.Stderr})
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", c.Kubeconfig(), made)
	return nil
}

func stockDown(context.Context, []string) error {
	dir, err := clusterDir("stock")
	if err != nil {
		return err
	}
	return stock.Down(dir)
}
