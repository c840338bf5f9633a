package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Unless returns err, but nil if it is an answer with this status.
func Unless(err error, code int) error {
	if answer := (*Error)(nil); errors.As(err, &answer) && answer.Code == code {
		return nil
	}
	return err
}

// maxFrame bounds what is believed of a length in a watch stream.
const maxFrame = 64 << 20

// Watch opens a watch and calls each with every event's bytes, which are valid
// during the call only, until each returns an error, ctx ends or the stream
// does. open is called once the server has answered.
func (c *Client) Watch(ctx context.Context, path, media string, open func(), each func(event []byte) error) error {
	if media == Protobuf {
		media += ";stream=watch"
	}
	resp, err := c.request(ctx, http.MethodGet, path, media, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	open()
	r := bufio.NewReaderSize(resp.Body, 32<<10)
	next := line
	if media != JSON {
		next = frame
	}
	var buf []byte
	for {
		if buf, err = next(r, buf[:0]); err != nil {
			return fmt.Errorf("watching %s: %w", path, err)
		}
		if err := each(buf); err != nil {
			return err
		}
	}
}

// line reads up to a newline.
func line(r *bufio.Reader, buf []byte) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		buf = append(buf, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return buf, err
		}
	}
}

// frame reads what a length of four bytes precedes.
func frame(r *bufio.Reader, buf []byte) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes", n)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, n)
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}
