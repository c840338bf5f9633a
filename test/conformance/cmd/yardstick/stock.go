package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"skiff.dev/skiff/test/conformance/build"
	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/images"
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

// clusterDir is where the cluster of a name lives. $CLUSTER chooses another name or a directory, so that
// several people can have one each on a machine.
func clusterDir(name string) (string, error) {
	if own := os.Getenv("CLUSTER"); own != "" {
		name = own
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	cache, err := build.Cache()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "clusters", name), nil
}

// configure builds what a cluster needs, and the programs named besides.
func configure(ctx context.Context, name string, besides ...string) (config cluster.Config, err error) {
	if os.Getuid() != 0 {
		return config, errors.New("machines can be pretended by root only")
	}
	source, err := module()
	if err != nil {
		return config, err
	}
	if err := installTools(ctx, source); err != nil {
		return config, err
	}
	if config.Dir, err = clusterDir(name); err != nil {
		return config, err
	}
	if config.Programs, err = build.Programs(ctx, source, os.Stderr, append(build.Cluster(), besides...)...); err != nil {
		return config, err
	}
	config.Skiff = os.Getenv("SKIFF_BINARY")
	if config.Skiff == "" {
		config.Skiff = filepath.Join(source, "..", "..", "bin", "skiff")
	}
	cache, err := imageCache()
	if err != nil {
		return config, err
	}
	archives, err := images.Build(ctx, images.Options{Source: source, Cache: cache, Log: os.Stderr})
	if err != nil {
		return config, err
	}
	for _, a := range archives {
		config.Archives = append(config.Archives, a.File)
	}
	self, err := os.Executable()
	config.DNSImage, config.Log = images.CoreDNS, os.Stderr
	config.Registry = []string{self, "registry", "-images", cache, "-listen", ":5000"}
	return config, err
}

// imageCache is the folder of the images' archives, beside those of programs.
func imageCache() (string, error) {
	cache, err := build.Cache()
	return filepath.Join(cache, "images"), err
}

func stockUp(ctx context.Context, _ []string) error {
	config, err := configure(ctx, "stock")
	if err != nil {
		return err
	}
	unlock, err := cluster.Lock(config.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := stock.Up(ctx, config)
	if err != nil {
		return fmt.Errorf("%w\n`make stock-down` removes what there is of it", err)
	}
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", c.Kubeconfig(), config.Programs)
	return nil
}

func stockDown(context.Context, []string) error {
	dir, err := clusterDir("stock")
	if err != nil {
		return err
	}
	unlock, err := cluster.Lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	return cluster.Remove(dir)
}

// pids prints the processes of a running cluster, as JSON, for tools that charge them.
func pids(_ context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: yardstick pids CLUSTER")
	}
	dir, err := clusterDir(args[0])
	if err != nil {
		return err
	}
	c, err := cluster.Open(cluster.Config{Dir: dir})
	if err != nil {
		return err
	}
	all, err := c.PIDs()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}
