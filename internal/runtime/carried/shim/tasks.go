package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// deletedName is the note in the bundle of a container that the task service has deleted: its identifier,
// a line feed, and how it ended, as containerd reads it. containerd executes the shim once more for such a
// container, to clean up after a shim that is gone and be told just this; there being nothing to clean up,
// the launcher answers from the note (launcher/launcher.c).
const deletedName = "skiff-deleted"

// tasks is containerd's task service, and leaves notes of what it has deleted.
type tasks struct {
	taskapi.TTRPCTaskService

	mu      sync.Mutex
	bundles map[string]string // by container
}

// RegisterTTRPC has a server serve the tasks.
func (t *tasks) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, t)
	return nil
}

// Create is containerd's, and remembers where the bundle is.
func (t *tasks) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	answer, err := t.TTRPCTaskService.Create(ctx, r)
	if err == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.bundles[r.ID] = r.Bundle
	}
	return answer, err
}

// Delete is containerd's, and leaves the note when a container, not an exec, has been deleted.
func (t *tasks) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	answer, err := t.TTRPCTaskService.Delete(ctx, r)
	if err != nil || r.ExecID != "" {
		return answer, err
	}
	t.mu.Lock()
	bundle := t.bundles[r.ID]
	delete(t.bundles, r.ID)
	t.mu.Unlock()
	if bundle != "" {
		// Without the note the shim's own program is executed, and finds nothing to do.
		_ = leaveNote(bundle, r.ID, answer)
	}
	return answer, nil
}

func leaveNote(bundle, id string, answer *taskapi.DeleteResponse) error {
	ended, err := proto.Marshal(answer)
	if err != nil {
		return fmt.Errorf("noting the end of %s: %w", id, err)
	}
	file := filepath.Join(bundle, deletedName)
	if err := os.WriteFile(file+".new", append([]byte(id+"\n"), ended...), 0o600); err != nil {
		return fmt.Errorf("noting the end of %s: %w", id, err)
	}
	return os.Rename(file+".new", file)
}
