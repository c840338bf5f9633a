package runtime

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"skiff.dev/skiff/internal/runtime/carried"
)

// The programs inside the binary, by the names under which they are extracted.
const (
	runcName  = "runc"
	shimName  = "containerd-shim-runc-v2"
	pauseName = "pause"
)

// ErrNotCarried means that this binary was built without the runtime's programs.
var ErrNotCarried = errors.New("this skiff binary was built without the container runtime's programs; " +
	"run `make build`, which builds and embeds them (internal/runtime/carried/build.sh)")

// Carried tells whether the programs are inside this binary; the error is ErrNotCarried with the name
// of the first that is missing.
func Carried() error {
	for _, name := range []string{runcName, shimName, pauseName} {
		if _, err := carried.Lookup(name); err != nil {
			return fmt.Errorf("%w: %s", ErrNotCarried, name)
		}
	}
	return nil
}

// extract brings the programs of the binary to dir, mode 0700. A file that is there and whole is left
// alone; one that is not is replaced by rename, so that a running program keeps its old text.
func extract(dir string) error {
	for _, name := range []string{runcName, shimName} {
		p, err := carried.Lookup(name)
		if err != nil {
			return fmt.Errorf("%w: %s", ErrNotCarried, name)
		}
		path := filepath.Join(dir, name)
		sum, err := sumOf(path)
		if err == nil && sum == p.SHA256 {
			continue
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("checking %s: %w", path, err)
		}
		data, err := unpack(p)
		if err != nil {
			return fmt.Errorf("unpacking the carried %s: %w", name, err)
		}
		if err := replace(path, data); err != nil {
			return fmt.Errorf("extracting the carried %s: %w", name, err)
		}
	}
	return nil
}

// unpack decompresses a carried program and verifies it.
func unpack(p carried.Program) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	data, err := d.DecodeAll(p.Compressed, make([]byte, 0, p.Size))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 {
		return nil, errors.New("its checksum does not match")
	}
	return data, nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// replace writes an executable file under a temporary name and renames it into place.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that led here is the one to report
		}
	}()
	_, err = io.Copy(f, bytes.NewReader(data))
	err = errors.Join(err, f.Chmod(0o700), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
