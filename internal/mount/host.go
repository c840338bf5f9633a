package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is the kernel's Mounter, for the mount namespace of the calling thread.
type Host struct{}

// New returns the kernel's Mounter.
func New() Host { return Host{} }

// flag is one generic option of mount(8): what it sets, or clears.
type flag struct {
	bits  uintptr
	clear bool
}

var flags = map[string]flag{
	"defaults":    {},
	"rw":          {unix.MS_RDONLY, true},
	"ro":          {unix.MS_RDONLY, false},
	"suid":        {unix.MS_NOSUID, true},
	"nosuid":      {unix.MS_NOSUID, false},
	"dev":         {unix.MS_NODEV, true},
	"nodev":       {unix.MS_NODEV, false},
	"exec":        {unix.MS_NOEXEC, true},
	"noexec":      {unix.MS_NOEXEC, false},
	"async":       {unix.MS_SYNCHRONOUS, true},
	"sync":        {unix.MS_SYNCHRONOUS, false},
	"dirsync":     {unix.MS_DIRSYNC, false},
	"remount":     {unix.MS_REMOUNT, false},
	"atime":       {unix.MS_NOATIME, true},
	"noatime":     {unix.MS_NOATIME, false},
	"diratime":    {unix.MS_NODIRATIME, true},
	"nodiratime":  {unix.MS_NODIRATIME, false},
	"relatime":    {unix.MS_RELATIME, false},
	"norelatime":  {unix.MS_RELATIME, true},
	"strictatime": {unix.MS_STRICTATIME, false},
	"bind":        {unix.MS_BIND, false},
	"rbind":       {unix.MS_BIND | unix.MS_REC, false},
}

// splitOptions parts the generic options, as flags, from the file system's own.
func splitOptions(options string) (bits uintptr, data string) {
	var rest []string
	for o := range strings.SplitSeq(options, ",") {
		f, generic := flags[o]
		switch {
		case o == "":
		case !generic:
			rest = append(rest, o)
		case f.clear:
			bits &^= f.bits
		default:
			bits |= f.bits
		}
	}
	return bits, strings.Join(rest, ",")
}

// Mount implements Mounter.
func (Host) Mount(m Mount) error {
	if err := absolute("mounting at", m.Target); err != nil {
		return err
	}
	bits, data := splitOptions(m.Options)
	if err := unix.Mount(m.Source, m.Target, m.Type, bits, data); err != nil {
		return fmt.Errorf("mounting %s (%s) at %s: %w", m.Source, m.Type, m.Target, err)
	}
	return nil
}

// Bind implements Mounter.
func (h Host) Bind(source, target string, o BindOptions) error {
	if err := errors.Join(absolute("binding", source), absolute("binding at", target)); err != nil {
		return err
	}
	bits := uintptr(unix.MS_BIND)
	if o.Recursive {
		bits |= unix.MS_REC
	}
	if err := unix.Mount(source, target, "", bits, ""); err != nil {
		return fmt.Errorf("binding %s at %s: %w", source, target, err)
	}
	if !o.ReadOnly {
		return nil
	}
	if err := h.RemountReadOnly(target); err != nil {
		return errors.Join(err, h.Unmount(target))
	}
	return nil
}

// RemountReadOnly implements Mounter. The other flags are kept: in a user namespace the kernel
// refuses a remount that would drop one.
func (Host) RemountReadOnly(target string) error {
	if err := absolute("remounting", target); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return fmt.Errorf("remounting %s read-only: %w", target, err)
	}
	bits := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	for st, ms := range map[int64]uintptr{
		unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if int64(fs.Flags)&st != 0 {
			bits |= ms
		}
	}
	if err := unix.Mount("", target, "", bits, ""); err != nil {
		return fmt.Errorf("remounting %s read-only: %w", target, err)
	}
	return nil
}

// SetPropagation implements Mounter.
func (Host) SetPropagation(target string, p Propagation) error {
	if err := absolute("setting the propagation of", target); err != nil {
		return err
	}
	var bits uintptr
	switch p {
	case Private:
		bits = unix.MS_PRIVATE
	case HostToContainer:
		bits = unix.MS_SLAVE
	case Bidirectional:
		bits = unix.MS_SHARED
	default:
		return fmt.Errorf("setting the propagation of %s: unknown propagation %q", target, p)
	}
	if err := unix.Mount("", target, "", bits|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("setting the propagation of %s: %w", target, err)
	}
	return nil
}

// Unmount implements Mounter.
func (Host) Unmount(target string) error {
	if err := absolute("unmounting", target); err != nil {
		return err
	}
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", target, err)
	}
	return nil
}

// List implements Mounter.
func (Host) List(dir string) ([]Info, error) {
	if err := absolute("listing the mounts below", dir); err != nil {
		return nil, err
	}
	// The kernel lists resolved paths; a directory that is gone can still be a prefix of mounts.
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	defer f.Close()
	all, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	var found []Info
	for _, i := range all {
		if below(i.Target, dir) {
			found = append(found, i)
		}
	}
	return found, nil
}

// Parse reads a mountinfo file (proc_pid_mountinfo(5)).
func Parse(r io.Reader) ([]Info, error) {
	var mounts []Info
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		i, err := parseLine(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("reading mountinfo line %q: %w", lines.Text(), err)
		}
		mounts = append(mounts, i)
	}
	return mounts, lines.Err()
}

// parseLine reads `ID PARENT MAJOR:MINOR ROOT TARGET OPTIONS [TAG]... - TYPE SOURCE SUPEROPTIONS`.
func parseLine(line string) (Info, error) {
	var i Info
	own, fs, ok := strings.Cut(line, " - ")
	fields, fsFields := strings.Fields(own), strings.Split(fs, " ")
	if !ok || len(fields) < 6 || len(fsFields) < 2 {
		return i, errors.New("too few fields")
	}
	var err error
	if i.ID, err = strconv.Atoi(fields[0]); err != nil {
		return i, err
	}
	if i.Parent, err = strconv.Atoi(fields[1]); err != nil {
		return i, err
	}
	i.Root, i.Target = unescape(fields[3]), unescape(fields[4])
	i.Type, i.Source = fsFields[0], unescape(fsFields[1])
	i.Super = strings.Join(fsFields[2:], " ")
	i.ReadOnly = fields[5] == "ro" || strings.HasPrefix(fields[5], "ro,")
	for _, tag := range fields[6:] {
		i.Shared = i.Shared || strings.HasPrefix(tag, "shared:")
	}
	return i, nil
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = after
		if len(s) >= 3 {
			if c, err := strconv.ParseUint(s[:3], 8, 8); err == nil {
				b.WriteByte(byte(c))
				s = s[3:]
				continue
			}
		}
		b.WriteByte('\\')
	}
}
