package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// deleter is a task service that only creates and deletes.
type deleter struct {
	taskapi.TTRPCTaskService
	failed error
}

var ended = &taskapi.DeleteResponse{Pid: 7, ExitStatus: 137, ExitedAt: timestamppb.New(time.Unix(1, 2))}

func (d *deleter) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return &taskapi.CreateTaskResponse{Pid: 7}, nil
}

func (d *deleter) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return ended, d.failed
}

// launcher builds the launcher beside a program that says that it was executed.
func launcher(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "containerd-shim-runc-v2")
	out, err := exec.Command("gcc", "-static", "-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector", "-Os", "-Wall", "-Wextra", "-Werror",
		"-o", program, "../launcher/launcher.c").CombinedOutput()
	if err != nil {
		t.Fatalf("building the launcher: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "containerd-shim-skiff"), []byte("#!/bin/sh\nprintf 'the shim, %s' \"$*\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return program
}

// TestDeletedTwice deletes a container in the task service and then, as containerd does, by the shim's
// program, which is executed only where the first did not come to its end.
func TestDeletedTwice(t *testing.T) {
	program := launcher(t)
	bundle := t.TempDir()
	d := &deleter{}
	service := &tasks{TTRPCTaskService: d, bundles: map[string]string{}}
	deletes := func(exec string, want error) {
		t.Helper()
		if _, err := service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1", ExecID: exec}); !errors.Is(err, want) {
			t.Fatalf("deleting: %v, want %v", err, want)
		}
	}
	executed := func(id, action string) string {
		t.Helper()
		cmd := exec.Command(program, "-namespace", "k8s.io", "-id", id, "-bundle", bundle, action)
		cmd.Dir = bundle
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if _, err := service.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
	deletes("exec", nil)
	d.failed = errors.New("busy")
	deletes("", d.failed)
	if got := executed("c1", "delete"); !strings.HasPrefix(got, "the shim, ") {
		t.Errorf("the launcher answers %q for a container that is there", got)
	}
	d.failed = nil
	deletes("", nil)
	var got taskapi.DeleteResponse
	if err := proto.Unmarshal([]byte(executed("c1", "delete")), &got); err != nil || !proto.Equal(&got, ended) {
		t.Errorf("the launcher answers %v, %v; want %v", &got, err, ended)
	}
	for _, c := range [][2]string{{"c2", "delete"}, {"c", "delete"}, {"c11", "delete"}, {"c1", "start"}, {"c1", "-info"}} {
		if got := executed(c[0], c[1]); !strings.HasPrefix(got, "the shim, ") {
			t.Errorf("the launcher answers %q to %s of %s", got, c[1], c[0])
		}
	}
	if len(service.bundles) > 0 {
		t.Errorf("bundles are remembered: %v", service.bundles)
	}
}
