package pki

import (
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// WriteFile replaces the file whole: after a crash there is the old content or
// the new one.
func WriteFile(name string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()           // a second close does no harm
			os.Remove(f.Name()) // best effort; the error at hand counts
			err = fmt.Errorf("writing %s: %w", name, err)
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// makeDir makes a directory for secrets.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("closing %s to others: %w", dir, err)
	}
	return nil
}

// SavePair writes a certificate and its key; the key first, so that a
// certificate on disk always has one.
func SavePair(crt, key string, p *Pair) error {
	if err := makeDir(filepath.Dir(key)); err != nil {
		return err
	}
	if err := WriteFile(key, p.KeyPEM, 0o600); err != nil {
		return err
	}
	return WriteFile(crt, p.CertPEM, 0o644)
}

// LoadPair reads a certificate and its key. The error wraps os.ErrNotExist if
// one of the files is not there.
func LoadPair(crt, key string) (*Pair, error) {
	data, err := os.ReadFile(crt)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate: %w", err)
	}
	certs, err := ParseCerts(data)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s is damaged (%w): restore it from a backup", crt, err)
	}
	signer, err := loadKey(key)
	if err != nil {
		return nil, err
	}
	if !samePublicKey(certs[0], signer) {
		return nil, fmt.Errorf("%s is not the key of %s: restore both from the same backup", key, crt)
	}
	p, err := newPair(certs[0], signer)
	if err != nil {
		return nil, err
	}
	p.CertPEM = data // with the rest of its chain
	return p, nil
}

func loadKey(name string) (crypto.Signer, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	key, err := ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("key file %s is damaged (%w): restore it from a backup", name, err)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(name, 0o600); err != nil {
			return nil, fmt.Errorf("key file %s can be read by others: run chmod 600 on it (%w)", name, err)
		}
	}
	return key, nil
}

// Expiry tells until when a certificate on disk is valid.
type Expiry struct {
	File     string
	Subject  string
	NotAfter time.Time
}

// Expiries reads all certificates (*.crt) of a directory. Files that are none
// are reported in the error; the others are returned all the same.
func Expiries(dir string) ([]Expiry, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("looking for certificates: %w", err)
	}
	var all []Expiry
	var errs []error
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".crt") {
			continue
		}
		name := filepath.Join(dir, entry.Name())
		data, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		certs, err := ParseCerts(data)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		for _, cert := range certs {
			all = append(all, Expiry{File: name, Subject: cert.Subject.String(), NotAfter: cert.NotAfter})
		}
	}
	return all, errors.Join(errs...)
}
