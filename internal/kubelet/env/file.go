package env

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// maxEnvFile bounds an env file, KEP-3721.
const maxEnvFile = 64 << 10

func (m *maker) fileKey(ref *v1.FileKeySelector) (string, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	data, err := m.File(m.pod, ref.VolumeName, ref.Path)
	switch {
	case errors.Is(err, os.ErrNotExist) && optional:
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("reading env file %s of volume %s: %w", ref.Path, ref.VolumeName, err)
	case len(data) > maxEnvFile:
		return "", false, fmt.Errorf("env file %s of volume %s is larger than %d bytes", ref.Path, ref.VolumeName, maxEnvFile)
	}
	vars, err := parseFile(data)
	if err != nil {
		return "", false, fmt.Errorf("env file %s of volume %s: %w", ref.Path, ref.VolumeName, err)
	}
	v, ok := vars[ref.Key]
	if !ok && !optional {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return v, ok, nil
}

// parseFile reads lines of NAME='value', the subset of shell that KEP-3721
// allows: values in single quotes, which may span lines; blank lines and
// lines that begin with # are skipped.
func parseFile(data []byte) (map[string]string, error) {
	vars := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxEnvFile+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, ok := strings.Cut(line, "=")
		if !ok || name == "" || name != strings.TrimSpace(name) || !strings.HasPrefix(rest, "'") {
			return nil, fmt.Errorf("line %d: want NAME='value'", n)
		}
		rest = rest[1:]
		for !strings.Contains(rest, "'") {
			if !lines.Scan() {
				return nil, fmt.Errorf("line %d: the quote is not closed", n)
			}
			rest += "\n" + lines.Text()
			n++
		}
		value, after, _ := strings.Cut(rest, "'")
		if after = strings.TrimSpace(after); after != "" && !strings.HasPrefix(after, "#") {
			return nil, fmt.Errorf("line %d: text after the closing quote", n)
		}
		vars[name] = value
	}
	return vars, lines.Err()
}
