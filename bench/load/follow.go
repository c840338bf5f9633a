package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Follow is Watch, but goes on after the last event when the server ends the
// stream, as servers do with clients that read too slowly. It returns how often
// that was.
func (c *Client) Follow(ctx context.Context, path, media string, open func(), each func(event []byte) error) (resumed int, err error) {
	var last []byte
	var stopped error
	for {
		err := c.Watch(ctx, path, media, open, func(event []byte) error {
			last = append(last[:0], event...)
			stopped = each(event)
			return stopped
		})
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if stopped != nil || ctx.Err() != nil || !ended {
			return resumed, err
		}
		resumed++
		open = func() {}
		if len(last) == 0 {
			continue // nothing has been missed
		}
		if path, err = after(path, media, last); err != nil {
			return resumed, err
		}
	}
}

// after is the path of a watch that begins after an event.
func after(path, media string, event []byte) (string, error) {
	version, err := versionOf(media, event)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(path)
	if err != nil {
		return "", err
	}
	query := u.Query()
	query.Set("resourceVersion", version)
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// versionOf is the resourceVersion of an event's object.
func versionOf(media string, event []byte) (string, error) {
	var object metav1.PartialObjectMetadata
	if media == JSON {
		e := struct{ Object any }{&object}
		if err := json.Unmarshal(event, &e); err != nil {
			return "", fmt.Errorf("reading a watch event: %w", err)
		}
	} else {
		var e metav1.WatchEvent
		if err := e.Unmarshal(event); err != nil {
			return "", fmt.Errorf("reading a watch event: %w", err)
		}
		obj, err := runtime.Decode(decoder, e.Object.Raw)
		if err != nil {
			return "", fmt.Errorf("reading a watch event's object: %w", err)
		}
		if known, ok := obj.(metav1.Object); ok {
			object.ResourceVersion = known.GetResourceVersion()
		}
	}
	if object.ResourceVersion == "" {
		return "", errors.New("the watch ended with an event that has no resourceVersion: what comes next is unknown")
	}
	return object.ResourceVersion, nil
}
