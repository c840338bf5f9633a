package cluster

import (
	"context"
	"fmt"
	"sync"
)

// ledger keeps, in the order of their revisions, which leader made which
// commits.
type ledger struct {
	mu      sync.Mutex
	terms   map[string]int // how many there have been, by lease
	last    map[string]*term
	commits map[string]int // made by leaders, by lease
	breach  []string
}

// term is the time for which a process leads.
type term struct {
	lease  string
	number int
}

// termKey is where a request's context holds the term it was sent in.
type termKey struct{}

// begin notes that a process now believes to lead.
func (l *ledger) begin(lease string) *term {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.terms == nil {
		l.terms, l.last, l.commits = map[string]int{}, map[string]*term{}, map[string]int{}
	}
	l.terms[lease]++
	return &term{lease, l.terms[lease]}
}

// note takes a commit down. Whoever writes after his successor has written
// interleaves with him (I22).
func (l *ledger) note(ctx context.Context, rev int64) {
	t, _ := ctx.Value(termKey{}).(*term)
	if t == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits[t.lease]++
	if last := l.last[t.lease]; last != nil && last.number > t.number {
		l.breach = append(l.breach, fmt.Sprintf("I22: revision %d was written in term %d of %s, after term %d had begun to write", rev, t.number, t.lease, last.number))
		return
	}
	l.last[t.lease] = t
}

// read returns how many terms and commits there were of a lease, and all
// breaches.
func (l *ledger) read(lease string) (terms, commits int, breaches []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.terms[lease], l.commits[lease], l.breach
}
