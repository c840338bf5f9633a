package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Source is where the overlay learns of Nodes. Objects are read-only.
type Source interface {
	// Nodes returns all Nodes.
	Nodes() []*corev1.Node
	// Follow calls changed once when all Nodes have been loaded, and again
	// after each change, until ctx ends.
	Follow(ctx context.Context, changed func()) error
}

// Applier brings a state about; Kernel does.
type Applier interface {
	Apply(ctx context.Context, c Config, s State) error
}

// How long to wait after a failure; doubled up to the maximum.
const (
	retryMin = time.Second
	retryMax = time.Minute
)

// Run keeps the node connected to the others until ctx ends. What was applied
// stays: connections between pods outlive a restart. links, which may be nil,
// tells that a link of the node has changed: the kernel drops routes with
// their link.
func Run(ctx context.Context, c Config, self string, src Source, k Applier, links <-chan struct{}, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	wake := make(chan struct{}, 1)
	followed := make(chan error, 1)
	go func() {
		followed <- src.Follow(ctx, func() {
			select {
			case wake <- struct{}{}:
			default: // a wake-up is pending already
			}
		})
	}()
	stopped := false
	defer func() {
		cancel()
		if !stopped {
			<-followed
		}
	}()
	retry, wait, loaded := time.NewTimer(0), retryMin, false
	retry.Stop()
	defer retry.Stop()
	for {
		select {
		case err := <-followed:
			stopped = true
			if ctx.Err() == nil {
				return fmt.Errorf("following nodes: %w", err)
			}
			return nil
		case <-wake:
			loaded = true
		case <-links:
		case <-retry.C:
		}
		if !loaded {
			continue
		}
		err := sync(ctx, c, self, src, k)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errNotYet) {
			log.Debug("The node has no place in the network yet", "err", err)
			continue // it will be told of, as every change of a node
		}
		if err != nil {
			log.Warn("Not all nodes can be reached", "err", err, "retryAfter", wait)
			retry.Reset(wait)
			wait = min(2*wait, retryMax)
			continue
		}
		wait = retryMin
		retry.Stop()
	}
}

func sync(ctx context.Context, c Config, self string, src Source, k Applier) error {
	var peers []Peer
	for _, n := range src.Nodes() {
		peers = append(peers, PeerOf(n))
	}
	s, err := Desired(c, self, peers)
	if s.Masquerade == nil {
		return err // nothing is known of this node yet: leave what a run before has made
	}
	return errors.Join(err, k.Apply(ctx, c, s))
}
