package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// leases hands out one etcd lease for all keys of about the same expiry, so
// that a thousand events with an hour to live cost sixty leases, not a thousand.
type leases struct {
	grant func(context.Context, *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error)

	mu   sync.Mutex
	byAt map[int64]int64 // lease by expiry (Unix seconds)
}

// granularity is the span of expiry times that share a lease: fine for short
// lives, at most the minute that store.Op allows.
func granularity(ttl time.Duration) time.Duration {
	return min(max(ttl/16, time.Second), time.Minute)
}

// get returns a lease that ends ttl from now or up to one granularity later.
func (l *leases) get(ctx context.Context, ttl time.Duration) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	step := granularity(ttl)
	at := now.Add(ttl + step - 1).Truncate(step).Unix()
	if id, ok := l.byAt[at]; ok {
		return id, nil
	}
	for old := range l.byAt {
		if old <= now.Unix() {
			delete(l.byAt, old)
		}
	}
	resp, err := l.grant(ctx, &pb.LeaseGrantRequest{TTL: max(at-now.Unix(), 1)})
	if err != nil {
		return 0, err
	}
	if l.byAt == nil {
		l.byAt = map[int64]int64{}
	}
	l.byAt[at] = resp.ID
	return resp.ID, nil
}

// forget drops all leases; keys that have one keep it.
func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.byAt)
}
