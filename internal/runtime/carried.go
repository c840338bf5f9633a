package runtime

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/runtime/carried"
)

// The programs inside the binary, by the names under which they are extracted.
const (
	containerdName = "containerd"
	runcName       = "runc"
	launcherName   = "containerd-shim-runc-v2" // what containerd calls the shim
	shimName       = "containerd-shim-skiff"
	pauseName      = "pause"
	cniName        = "skiff-cni"        // what containerd takes for the network plugin
	cniPluginName  = "skiff-cni-plugin" // and what that executes where skiff does not answer
	initName       = "skiff-init"       // what the shim makes containers with
	seccompName    = "skiff-seccomp"    // and translates their seccomp profiles with
)

// extractedNames are the programs that are files in the data directory; pause is in an image.
var extractedNames = []string{
	containerdName, runcName, launcherName, shimName, cniName, cniPluginName, initName, seccompName,
}

// ErrNotCarried means that this binary was built without the runtime's programs.
var ErrNotCarried = errors.New("this skiff binary was built without the container runtime's programs; " +
	"run `make build`, which builds and embeds them (internal/runtime/carried/build.sh)")

// Carried tells whether the programs are inside this binary; the error is ErrNotCarried with the name
// of the first that is missing.
func Carried() error {
	for _, name := range append(slices.Clone(extractedNames), pauseName) {
		if _, err := carried.Lookup(name); err != nil {
			return fmt.Errorf("%w: %s", ErrNotCarried, name)
		}
	}
	return nil
}

// extracted is what extract remembers of a file: its checksum when it was written, and the marks that
// change when anybody writes, replaces or chmods it, so that it need not be read at every start.
type extracted struct {
	SHA256 string `json:"sha256"`
	Inode  uint64 `json:"inode"`
	Size   int64  `json:"size"`
	Change int64  `json:"change"` // ctime, ns
}

// extract brings the programs of the binary to dir, mode 0700. A file that is there and whole is left
// alone; one that is not is replaced by rename, so that a running program keeps its old text.
func extract(dir string) error {
	record := filepath.Join(dir, "extracted.json")
	before := map[string]extracted{}
	if data, err := os.ReadFile(record); err == nil {
		_ = json.Unmarshal(data, &before) // what cannot be read is extracted again
	}
	after := map[string]extracted{}
	for _, name := range extractedNames {
		p, err := carried.Lookup(name)
		if err != nil {
			return fmt.Errorf("%w: %s", ErrNotCarried, name)
		}
		path := filepath.Join(dir, name)
		marks, err := marksOf(path, p.SHA256)
		if err == nil && marks == before[name] {
			after[name] = marks
			continue
		}
		data, err := unpack(p)
		if err != nil {
			return fmt.Errorf("unpacking the carried %s: %w", name, err)
		}
		if err := replace(path, data); err != nil {
			return fmt.Errorf("extracting the carried %s: %w", name, err)
		}
		if after[name], err = marksOf(path, p.SHA256); err != nil {
			return fmt.Errorf("extracting the carried %s: %w", name, err)
		}
	}
	if maps.Equal(before, after) {
		return nil
	}
	data, err := json.Marshal(after)
	if err == nil {
		err = os.WriteFile(record, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording the extracted programs: %w", err)
	}
	return nil
}

// marksOf reads a file's marks; the checksum is the one it had when it was written.
func marksOf(path, sum string) (extracted, error) {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return extracted{}, err
	}
	return extracted{SHA256: sum, Inode: stat.Ino, Size: stat.Size, Change: stat.Ctim.Nano()}, nil
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

// pieceSize is what the kernel maps at a time around a byte that a program needs.
// Of a file that is written in larger pieces it keeps larger pages, up to 2 MiB,
// and has all of one resident.
const pieceSize = 64 << 10

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
	for piece := range slices.Chunk(data, pieceSize) {
		if _, err = f.Write(piece); err != nil {
			break
		}
	}
	err = errors.Join(err, f.Chmod(0o700), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
