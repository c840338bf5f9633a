// Command pack compresses the programs named on its command line into a directory, as NAME.zst, and
// lists them with their checksums in manifest.json: `pack DIR PROGRAM...`. It is run by build.sh.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"skiff.dev/skiff/internal/runtime/carried"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: pack DIR PROGRAM...")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(dir string, programs []string) error {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	defer encoder.Close()
	manifest := map[string]carried.Program{}
	for _, path := range programs {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		name := filepath.Base(path)
		manifest[name] = carried.Program{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
		if err := os.WriteFile(filepath.Join(dir, name+".zst"), encoder.EncodeAll(data, nil), 0o644); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), append(data, '\n'), 0o644)
}
