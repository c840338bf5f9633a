package nftables

import (
	"context"
	"fmt"
)

// Kernel carries batches out. Its implementations are NetNS and Fake.
type Kernel interface {
	// Read returns the table as it stands; a table that is missing comes back
	// with no Name. Rules come back as their digests, dynamic sets without
	// their elements, nameless maps not at all.
	Read(ctx context.Context, f Family, name string) (Table, error)
	// Apply carries the batch out as one transaction: on error nothing has
	// changed.
	Apply(ctx context.Context, b *Batch) error
}

// Sync makes the table be as wanted, with as few changes as lead there, and
// returns how many changes those were. It reads first, so it can be used
// without knowing what another process has left.
func Sync(ctx context.Context, k Kernel, want Table) (int, error) {
	have, err := k.Read(ctx, want.Family, want.Name)
	if err != nil {
		return 0, fmt.Errorf("reading table %s %s: %w", want.Family, want.Name, err)
	}
	b := Create(want)
	if have.Name != "" && Replaceable(have, want) {
		b = Diff(have, want)
	}
	if b.Empty() {
		return 0, nil
	}
	return b.Len(), k.Apply(ctx, b)
}
