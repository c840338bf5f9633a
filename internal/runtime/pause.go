package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"

	"skiff.dev/skiff/internal/image"
	"skiff.dev/skiff/internal/runtime/carried"
)

// importPause makes the sandbox image from the carried pause, unless the runtime has one of that name.
func (r *Runtime) importPause(ctx context.Context) (err error) {
	has, err := r.images.Has(ctx, r.config.SandboxImage)
	if err != nil || has {
		return err
	}
	p, err := carried.Lookup(pauseName)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrNotCarried, pauseName)
	}
	program, err := unpack(p)
	if err != nil {
		return err
	}
	img, err := image.Build(image.Spec{
		Sources:    []image.Source{{Data: program, Target: "/pause", Mode: 0o755}},
		Entrypoint: []string{"/pause"},
		User:       "65535:65535",
	})
	if err != nil {
		return err
	}
	archive, err := os.CreateTemp(r.layout.data, "pause-*.tar")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(archive.Name())) }()
	if err := errors.Join(image.WriteArchive(archive, img, r.config.SandboxImage), archive.Close()); err != nil {
		return err
	}
	_, err = r.images.Import(ctx, archive.Name())
	return err
}
