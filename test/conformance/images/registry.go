package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Registry answers pulls of the images of archives, by the distribution protocol and without TLS or
// accounts. It stands behind containerd's mirror setting, which names the registry that was meant in the
// query parameter ns; without one, an image is found by its path in any registry.
type Registry struct {
	files []*os.File
	// blobs are found by digest ("sha256:..."), images by name ("registry.k8s.io/pause:3.10.2").
	blobs  map[string]blob
	images map[string]string
}

// blob is a part of an archive, which is not compressed.
type blob struct {
	file         *os.File
	offset, size int64
	mediaType    string
}

// OpenRegistry reads the indexes of all archives (*.tar) in a folder. Close releases them.
func OpenRegistry(dir string) (*Registry, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("opening the registry: no archive is in %s; `make images` makes them", dir)
	}
	r := &Registry{blobs: map[string]blob{}, images: map[string]string{}}
	for _, f := range files {
		if err := r.add(f); err != nil {
			return nil, errors.Join(fmt.Errorf("opening the registry: reading %s: %w", f, err), r.Close())
		}
	}
	return r, nil
}

// Close closes the archives.
func (r *Registry) Close() error {
	var failed []error
	for _, f := range r.files {
		failed = append(failed, f.Close())
	}
	return errors.Join(failed...)
}

// layout is what of an index and a manifest is read.
type layout struct {
	MediaType string       `json:"mediaType"`
	Manifests []descriptor `json:"manifests"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations"`
}

// add takes in one archive.
func (r *Registry) add(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	r.files = append(r.files, f)
	var index layout
	entries := tar.NewReader(f)
	for {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		at, err := f.Seek(0, io.SeekCurrent) // the tar reader reads no further than the header
		if err != nil {
			return err
		}
		if algorithm, hex, ok := strings.Cut(strings.TrimPrefix(h.Name, "blobs/"), "/"); ok {
			digest := algorithm + ":" + hex
			if _, known := r.blobs[digest]; !known {
				r.blobs[digest] = blob{f, at, h.Size, "application/octet-stream"}
			}
		}
		if h.Name == "index.json" {
			if err := json.NewDecoder(entries).Decode(&index); err != nil {
				return err
			}
		}
	}
	for _, d := range index.Manifests {
		b, ok := r.blobs[d.Digest]
		if !ok {
			return fmt.Errorf("the manifest %s is missing", d.Digest)
		}
		b.mediaType = d.MediaType
		r.blobs[d.Digest] = b
		r.images[d.Annotations["io.containerd.image.name"]] = d.Digest
	}
	return nil
}

// ServeHTTP answers /v2/, /v2/<repository>/manifests/<tag or digest> and /v2/<repository>/blobs/<digest>.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read only")
		return
	}
	rest, ok := strings.CutPrefix(q.URL.Path, "/v2/")
	if !ok {
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "no such page")
		return
	}
	if rest == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	for _, kind := range []string{"/manifests/", "/blobs/"} {
		i := strings.LastIndex(rest, kind)
		if i < 0 {
			continue
		}
		repository, reference := rest[:i], rest[i+len(kind):]
		digest := reference
		if !strings.Contains(reference, ":") {
			digest = r.find(q.URL.Query().Get("ns"), repository+":"+reference)
		}
		if b, ok := r.blobs[digest]; ok {
			w.Header().Set("Content-Type", b.mediaType)
			w.Header().Set("Docker-Content-Digest", digest)
			http.ServeContent(w, q, "", time.Time{}, io.NewSectionReader(b.file, b.offset, b.size))
			return
		}
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", repository+" has no "+reference)
		return
	}
	refuse(w, http.StatusNotFound, "UNSUPPORTED", "no such page")
}

// find returns the digest of an image, "" when there is none.
func (r *Registry) find(registry, name string) string {
	if registry != "" {
		return r.images[registry+"/"+name]
	}
	for full, digest := range r.images {
		if _, path, ok := strings.Cut(full, "/"); ok && path == name {
			return digest
		}
	}
	return ""
}

// refuse answers with an error as the protocol shapes it.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	body := map[string]any{"errors": []map[string]string{{"code": code, "message": message}}}
	json.NewEncoder(w).Encode(body) // the client that went away needs no answer
}

// Serve runs a registry of the archives in a folder until ctx ends.
func Serve(ctx context.Context, dir, listen string, log io.Writer) (err error) {
	registry, err := OpenRegistry(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("opening the registry's port: %w", err)
	}
	server := &http.Server{Handler: registry, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Fprintf(log, "images: serving those of %s on %s\n", dir, listener.Addr()) // for people; nothing waits for it
	select {
	case err := <-ended:
		return fmt.Errorf("serving the registry: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return server.Shutdown(closing)
}
