package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/image"
	"skiff.dev/skiff/internal/runtime"
)

func imageCommand() *cobra.Command {
	var dataDir, endpoint string
	cmd := &cobra.Command{Use: "image", Short: "Build images without a registry, and manage those of this node"}
	f := cmd.PersistentFlags()
	f.StringVar(&dataDir, "data-dir", Default().DataDir, "data directory of the cluster whose node is meant")
	f.StringVar(&endpoint, "container-runtime-endpoint", "", "CRI socket (default: that of the runtime inside skiff)")
	dial := func(ctx context.Context) (*image.Client, error) {
		if endpoint != "" {
			return image.Dial(endpoint)
		}
		return dialOwnRuntime(ctx, dataDir)
	}
	cmd.AddCommand(imageBuildCommand(dial), imageImportCommand(dial), imageListCommand(dial), imageRemoveCommand(dial))
	return cmd
}

type dialer func(context.Context) (*image.Client, error)

// runtimePatience is how long the runtime of a skiff that is starting may take.
const runtimePatience = 30 * time.Second

// dialOwnRuntime connects to the runtime inside the skiff of a data directory,
// and waits for it where that skiff has only just been started.
func dialOwnRuntime(ctx context.Context, dataDir string) (*image.Client, error) {
	c, err := image.Dial(runtime.EndpointOf(dataDir))
	if err != nil {
		return nil, err
	}
	if !running(dataDir) {
		return c, nil // containers and their runtime may live on without it
	}
	ctx, cancel := context.WithTimeout(ctx, runtimePatience)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// running says whether a skiff runs on the data directory.
func running(dataDir string) bool {
	lock, err := os.Open(filepath.Join(dataDir, lockFile))
	if err != nil {
		return false
	}
	defer lock.Close()
	return unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// imageBuild is what `skiff image build` is told.
type imageBuild struct {
	name, out             string
	dirs, binaries, tars  []string
	more                  []string
	files                 []string
	spec                  image.Spec
	entrypoint, arguments []string
	doImport              bool
}

func imageBuildCommand(dial dialer) *cobra.Command {
	var b imageBuild
	cmd := &cobra.Command{
		Use:   "build --name NAME {--binary FILE | --dir DIR | --tar FILE}",
		Short: "Build an image from a program, a directory or a tarball",
		Long: `Build an image from a program (with the shared libraries it needs), a directory
or a tarball. The same input gives the same image. With --import the image goes
straight into this node's runtime; otherwise it is written to --output.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd, dial) },
	}
	f := cmd.Flags()
	f.StringVar(&b.name, "name", "", "name of the image, such as shop/web:v1")
	f.StringVarP(&b.out, "output", "o", "", "write the image to this tarball")
	f.BoolVar(&b.doImport, "import", false, "import the image into this node's runtime")
	f.StringSliceVar(&b.binaries, "binary", nil, "program to put in and to run, as FILE or FILE:/TARGET")
	f.StringSliceVar(&b.more, "add-binary", nil, "further program to put in at the path it has here, as FILE or FILE:/TARGET")
	f.StringSliceVar(&b.dirs, "dir", nil, "directory to put in, as DIR or DIR:/TARGET")
	f.StringSliceVar(&b.tars, "tar", nil, "tarball to unpack, as FILE or FILE:/TARGET")
	f.StringArrayVar(&b.entrypoint, "entrypoint", nil, "program to run and its fixed arguments, repeated (default: the binary)")
	f.StringArrayVar(&b.arguments, "cmd", nil, "default arguments, repeated")
	f.StringArrayVar(&b.spec.Env, "env", nil, "environment, NAME=value, repeated")
	f.StringVar(&b.spec.WorkDir, "workdir", "", "working directory")
	f.StringVar(&b.spec.User, "user", "", "user to run as, uid[:gid] or a name")
	f.StringSliceVar(&b.spec.Ports, "port", nil, "exposed port, such as 80/tcp")
	return cmd
}

func (b *imageBuild) run(cmd *cobra.Command, dial dialer) error {
	if b.name == "" {
		return errors.New("give the image a name with --name")
	}
	if b.out == "" && !b.doImport {
		return errors.New("say where the image should go: --output FILE or --import")
	}
	b.sources()
	if len(b.spec.Sources) == 0 {
		return errors.New("say what should be in the image: --binary, --dir or --tar")
	}
	name, err := image.Name(b.name)
	if err != nil {
		return err
	}
	img, err := image.Build(b.spec)
	if err != nil {
		return err
	}
	out := b.out
	if out == "" {
		dir, err := os.MkdirTemp("", "skiff-image-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		out = filepath.Join(dir, "image.tar")
	}
	if err := writeArchive(out, img, name); err != nil {
		return err
	}
	if !b.doImport {
		fmt.Fprintln(cmd.OutOrStdout(), out)
		return nil
	}
	return importArchive(cmd, dial, out)
}

// sources turns the flags into the image's content and entry point.
func (b *imageBuild) sources() {
	split := func(s string) (file, target string) {
		if i := strings.LastIndex(s, ":/"); i > 0 {
			return s[:i], s[i+1:]
		}
		return s, ""
	}
	for _, s := range b.dirs {
		dir, target := split(s)
		b.spec.Sources = append(b.spec.Sources, image.Source{Dir: dir, Target: target})
	}
	for _, s := range b.tars {
		tar, target := split(s)
		b.spec.Sources = append(b.spec.Sources, image.Source{Tarball: tar, Target: target})
	}
	for _, s := range b.binaries {
		file, target := split(s)
		if target == "" {
			target = "/" + filepath.Base(file)
		}
		b.spec.Sources = append(b.spec.Sources, image.Source{Binary: file, Target: target})
		if len(b.entrypoint) == 0 {
			b.entrypoint = []string{target}
		}
	}
	for _, s := range b.more {
		file, target := split(s)
		if target == "" {
			target = file
		}
		b.spec.Sources = append(b.spec.Sources, image.Source{Binary: file, Target: target})
	}
	b.spec.Entrypoint, b.spec.Cmd = b.entrypoint, b.arguments
}

func writeArchive(path string, img v1.Image, name string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	if err := image.WriteArchive(f, img, name); err != nil {
		f.Close()
		return fmt.Errorf("writing the image: %w", err)
	}
	return f.Close()
}

func importArchive(cmd *cobra.Command, dial dialer, archive string, names ...string) error {
	c, err := dial(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := c.Import(cmd.Context(), archive, names...)
	if err != nil {
		return err
	}
	for _, n := range got {
		fmt.Fprintln(cmd.OutOrStdout(), n)
	}
	return nil
}

func imageImportCommand(dial dialer) *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use:   "import ARCHIVE...",
		Short: "Import images from tarballs (docker save or OCI layout)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, archive := range args {
				if err := importArchive(cmd, dial, archive, names...); err != nil {
					return fmt.Errorf("%s: %w", archive, err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&names, "name", nil, "name to give the image, besides its own")
	return cmd
}

func imageListCommand(dial dialer) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the images of this node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			all, err := c.List(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tID\tSIZE\tPINNED")
			for _, i := range all {
				names := i.Names
				if len(names) == 0 {
					names = []string{"<none>"}
				}
				for _, n := range names {
					fmt.Fprintf(w, "%s\t%s\t%s\t%v\n", n, short(i.ID), bytesOf(i.Size), i.Pinned)
				}
			}
			return w.Flush()
		},
	}
}

// short is as much of a digest as people compare.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

func bytesOf(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%dB", n)
	}
	value, suffix := float64(n)/unit, 0
	for value >= unit && suffix < 3 {
		value /= unit
		suffix++
	}
	return fmt.Sprintf("%.1f%ciB", value, "KMGT"[suffix])
}

func imageRemoveCommand(dial dialer) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Aliases: []string{"remove"}, Short: "Remove images from this node", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for _, name := range args {
				if err := c.Remove(cmd.Context(), name); err != nil {
					return fmt.Errorf("removing %s: %w", name, err)
				}
			}
			return nil
		},
	}
}
