package etcd

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"

	"skiff.dev/skiff/internal/store"
)

// pastChunk is how many revisions are read from the history at once.
const pastChunk = 1000

// past reads the changes between two revisions from the member's database.
// etcd's own watch stream brings them, too, but in rounds of 100 ms and at most
// 1,000 revisions each, and who resumes after a restart is waited for by users.
// In the database changes stand in order under their revisions.
type past struct {
	key, end   string // from, and below; an end of "\x00" is none
	next, last int64  // revisions still to be read
}

func (p *past) done() bool { return p.next > p.last }

// read returns the next changes; the batch may be empty, up to a revision.
func (p *past) read(m *member) (store.Batch, error) {
	rev := min(p.next+pastChunk-1, p.last)
	found, err := p.scan(m.srv.Backend().ConcurrentReadTx(), rev)
	if err != nil {
		return store.Batch{}, err
	}
	// What is forgotten is first said to be, then removed: if it is not said
	// now, nothing was missing.
	if m.srv.KV().FirstRev() > p.next {
		return store.Batch{}, store.ErrCompacted
	}
	b := toEvents(found)
	b.Rev = rev
	p.next = rev + 1
	return b, nil
}

// scan reads up to a revision.
func (p *past) scan(tx backend.ReadTx, to int64) (found []*mvccpb.Event, err error) {
	tx.RLock()
	defer tx.RUnlock()
	low := mvcc.RevToBytes(mvcc.Revision{Main: p.next}, mvcc.NewRevBytes())
	high := mvcc.RevToBytes(mvcc.Revision{Main: to + 1}, mvcc.NewRevBytes())
	// No limit: what is not in the file yet would be counted first.
	keys, values := tx.UnsafeRange(schema.Key, low, high, 0)
	for i, k := range keys {
		ev, err := change(k, values[i])
		if err != nil {
			return nil, err
		}
		if p.wants(string(ev.Kv.Key)) {
			found = append(found, ev)
		}
	}
	return found, nil
}

// change decodes one entry of the database.
func change(key, value []byte) (*mvccpb.Event, error) {
	kv := &mvccpb.KeyValue{}
	if err := proto.Unmarshal(value, kv); err != nil {
		return nil, fmt.Errorf("reading etcd's history: %w", err)
	}
	ev := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv}
	if mvcc.IsTombstone(key) {
		ev.Type, kv.ModRevision = mvccpb.Event_DELETE, mvcc.BytesToRev(key).Main
	}
	return ev, nil
}

func (p *past) wants(key string) bool {
	return key >= p.key && (p.end == "\x00" || key < p.end)
}
