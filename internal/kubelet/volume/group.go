package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// giveToGroup makes a volume's files belong to the pod's fsGroup, which may
// read them and, unless readOnly, write them. New files get the group too.
// fsGroupChangePolicy is not asked: it has no meaning for the volumes that
// begin empty with each pod.
// https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
func giveToGroup(dir string, group int64, readOnly bool) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, int(group)); err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chmod(path, info.Mode()|groupMode(info, readOnly))
	})
	if err != nil {
		return fmt.Errorf("giving the volume to group %d: %w", group, err)
	}
	return nil
}

// groupMode is what the mode of a file gains for the group.
func groupMode(info fs.FileInfo, readOnly bool) fs.FileMode {
	gain := fs.FileMode(0o660)
	if readOnly {
		gain = 0o440
	}
	if info.IsDir() {
		gain |= fs.ModeSetgid | 0o110
	}
	return gain
}
