package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// setUpHostPath checks that the path is of the kind that the volume asks for,
// and makes it where it may. Links are followed: the path is the host's.
func setUpHostPath(s *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	if kind == v1.HostPathUnset {
		return nil
	}
	path := filepath.Clean(s.Path)
	info, err := os.Stat(path)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	switch kind {
	case v1.HostPathDirectoryOrCreate:
		if absent {
			return makeDir(path)
		}
		return checkKind(path, "a directory", info.IsDir())
	case v1.HostPathFileOrCreate:
		if absent {
			return makeFile(path)
		}
		return checkKind(path, "a file", info.Mode().IsRegular())
	case v1.HostPathDirectory:
		return checkKind(path, "a directory", !absent && info.IsDir())
	case v1.HostPathFile:
		return checkKind(path, "a file", !absent && info.Mode().IsRegular())
	case v1.HostPathSocket:
		return checkKind(path, "a socket file", !absent && info.Mode().Type() == fs.ModeSocket)
	case v1.HostPathCharDev:
		return checkKind(path, "a character device", !absent && info.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice)
	case v1.HostPathBlockDev:
		return checkKind(path, "a block device", !absent && info.Mode().Type() == fs.ModeDevice)
	}
	return fmt.Errorf("%s is an invalid volume type", kind)
}

func checkKind(path, want string, is bool) error {
	if is {
		return nil
	}
	return fmt.Errorf("hostPath type check failed: %s is not %s", path, want)
}

func makeDir(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("making the hostPath directory: %w", err)
	}
	return nil
}

// makeFile makes an empty file. Its directory must be there, as documented.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("making the hostPath file: %w", err)
	}
	return f.Close()
}
