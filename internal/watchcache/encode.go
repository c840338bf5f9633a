package watchcache

import (
	"sync"
	"weak"
)

// encodings remembers what something looks like in each format. It is held
// weakly: whatever is not in use at a garbage collection is forgotten, so that
// a busy cache encodes once and an idle one holds no bytes. The zero value is
// empty.
type encodings struct {
	mu  sync.Mutex
	set weak.Pointer[encodingSet]
}

type encodingSet struct {
	mu   sync.Mutex
	list []encoding
}

type encoding struct {
	format string
	data   []byte
}

// get returns the encoding in format, made by encode if there is none. Errors
// are not remembered.
func (e *encodings) get(format string, encode func() ([]byte, error)) ([]byte, error) {
	e.mu.Lock()
	set := e.set.Value()
	if set == nil {
		set = new(encodingSet)
		e.set = weak.Make(set)
	}
	e.mu.Unlock()

	set.mu.Lock()
	defer set.mu.Unlock()
	for i := range set.list {
		if set.list[i].format == format {
			return set.list[i].data, nil
		}
	}
	data, err := encode()
	if err != nil {
		return nil, err
	}
	set.list = append(set.list, encoding{format, data})
	return data, nil
}
