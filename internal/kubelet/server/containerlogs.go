package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/scheme"
)

// logQuery reads the query of a request for a log.
func logQuery(q url.Values, now time.Time) (o logOptions, previous bool, err error) {
	var in v1.PodLogOptions
	if err := scheme.DecodeQuery(q, &in); err != nil {
		return o, false, err
	}
	o = logOptions{follow: in.Follow, timestamps: in.Timestamps, tail: -1, limit: -1}
	switch {
	case in.TailLines != nil && *in.TailLines < 0:
		return o, false, fmt.Errorf("tailLines: Invalid value: %d: must be greater than or equal to 0", *in.TailLines)
	case in.LimitBytes != nil && *in.LimitBytes < 1:
		return o, false, fmt.Errorf("limitBytes: Invalid value: %d: must be greater than 0", *in.LimitBytes)
	case in.SinceSeconds != nil && *in.SinceSeconds < 1:
		return o, false, fmt.Errorf("sinceSeconds: Invalid value: %d: must be greater than 0", *in.SinceSeconds)
	case in.SinceSeconds != nil && in.SinceTime != nil:
		return o, false, errors.New("at most one of `sinceTime` or `sinceSeconds` may be specified")
	}
	if in.TailLines != nil {
		o.tail = *in.TailLines
	}
	if in.LimitBytes != nil {
		o.limit = *in.LimitBytes
	}
	if in.SinceSeconds != nil {
		o.since = now.Add(-time.Duration(min(*in.SinceSeconds, int64(100*365*24*3600))) * time.Second)
	}
	if in.SinceTime != nil {
		o.since = in.SinceTime.Time
	}
	if in.Stream != nil {
		switch *in.Stream {
		case v1.LogStreamAll, "":
		case v1.LogStreamStdout, v1.LogStreamStderr:
			o.stream = strings.ToLower(*in.Stream)
		default:
			return o, false, fmt.Errorf("stream: Unsupported value: %q: supported values: %q, %q, %q", *in.Stream, v1.LogStreamAll, v1.LogStreamStdout, v1.LogStreamStderr)
		}
	}
	return o, in.Previous, nil
}

// containerLogs sends a container's log.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	o, previous, err := logQuery(r.URL.Query(), time.Now())
	if err != nil {
		refuse(w, r, http.StatusBadRequest, err.Error())
		return
	}
	pod, ok := s.Pods.Pod(namespace, name)
	if !ok {
		refuse(w, r, http.StatusNotFound, fmt.Sprintf("pod %q does not exist", name))
		return
	}
	id, err := logOf(pod, container, previous)
	if err != nil {
		refuse(w, r, http.StatusBadRequest, err.Error())
		return
	}
	status, err := s.Runtime.ContainerStatus(r.Context(), id)
	if err != nil {
		text := fmt.Sprintf("failed to try resolving symlinks in path %q: %v", id, err)
		if cri.IsNotFound(err) {
			text = fmt.Sprintf("unable to retrieve container logs for %s", id)
		}
		refuse(w, r, http.StatusBadRequest, text)
		return
	}
	l, err := openLog(s.Layout.PodLogs, status.GetLogPath())
	if err != nil {
		s.Log.Warn("opening a container's log", "pod", namespace+"/"+name, "container", container, "err", err)
		refuse(w, r, http.StatusInternalServerError, fmt.Sprintf("failed to open the log of container %q in pod %q", container, name))
		return
	}
	defer l.close()
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	err = readLog(r.Context(), l, o, w, flush, func(ctx context.Context) (bool, error) { return s.isRunning(ctx, id) })
	if err != nil && r.Context().Err() == nil {
		s.Log.Warn("sending a container's log", "pod", namespace+"/"+name, "container", container, "err", err)
	}
}

func (s *Server) isRunning(ctx context.Context, id string) (bool, error) {
	status, err := s.Runtime.ContainerStatus(ctx, id)
	if cri.IsNotFound(err) {
		return false, nil
	}
	return status.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING, err
}

// logOf returns the container instance whose log is asked for.
func logOf(pod *v1.Pod, container string, previous bool) (string, error) {
	cs := statusOf(pod, container)
	if cs == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", container, pod.Name)
	}
	last := cs.LastTerminationState.Terminated
	if previous {
		if last == nil || last.ContainerID == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", container, pod.Name)
		}
		return trimID(last.ContainerID), nil
	}
	switch st := cs.State; {
	case st.Running != nil:
		return trimID(cs.ContainerID), nil
	case st.Terminated != nil && st.Terminated.ContainerID != "":
		return trimID(st.Terminated.ContainerID), nil
	case last != nil && last.ContainerID != "":
		return trimID(last.ContainerID), nil
	case st.Terminated != nil:
		return "", fmt.Errorf("container %q in pod %q is terminated", container, pod.Name)
	case st.Waiting != nil:
		reason := st.Waiting.Reason
		switch reason {
		case "ErrImagePull":
			reason = "image can't be pulled"
		case "ImagePullBackOff":
			reason = "trying and failing to pull image"
		}
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %s", container, pod.Name, reason)
	}
	return "", fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", container, pod.Name)
}

func statusOf(pod *v1.Pod, container string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		if i := slices.IndexFunc(list, func(c v1.ContainerStatus) bool { return c.Name == container }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}

// refuse answers with an error. Upstream's kubelet answers in plain text, which
// an upstream API server makes a Status of; one that passes the answer on to a
// client, with its Accept header, gets the Status.
func refuse(w http.ResponseWriter, r *http.Request, code int, text string) {
	if !strings.Contains(r.Header.Get("Accept"), "application/json") {
		http.Error(w, text, code)
		return
	}
	reasons := map[int]metav1.StatusReason{
		http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusNotFound: metav1.StatusReasonNotFound,
		http.StatusInternalServerError: metav1.StatusReasonInternalError,
	}
	data, err := json.Marshal(&metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Message: text, Reason: reasons[code],
	})
	if err != nil {
		http.Error(w, text, code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(data) // a client that is gone needs no answer
}
