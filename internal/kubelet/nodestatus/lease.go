package nodestatus

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
)

// A node is alive while its lease is renewed; the control plane acts when it
// has not been for as long as it says (KEP-589). It is renewed three times
// before.
const (
	DefaultLeaseSeconds = 40
	renewals            = 4
)

// errNoNode means that the node is not registered, so that its lease has no
// owner yet.
var errNoNode = errors.New("the node is not registered")

// lease renews the node's lease. It belongs to one goroutine.
type lease struct {
	kind    client.Kind[*coordinationv1.Lease]
	name    string
	seconds int32
	last    *coordinationv1.Lease // as the API has it, as far as is known
}

// every is the time between renewals.
func (l *lease) every() time.Duration { return time.Duration(l.seconds) * time.Second / renewals }

// renew writes the lease once.
func (l *lease) renew(ctx context.Context, owner *v1.Node, now time.Time) error {
	if owner == nil {
		return errNoNode
	}
	if l.last != nil {
		got, err := l.kind.Update(ctx, l.next(l.last, owner, now))
		if err == nil {
			l.last = got
			return nil
		}
		l.last = nil
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("renewing the node's lease: %w", err)
		}
	}
	found, err := l.kind.Get(ctx, v1.NamespaceNodeLease, l.name)
	switch {
	case apierrors.IsNotFound(err):
		empty := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceNodeLease, Name: l.name}}
		found, err = l.kind.Create(ctx, l.next(empty, owner, now))
	case err == nil:
		found, err = l.kind.Update(ctx, l.next(found, owner, now))
	}
	if err != nil {
		return fmt.Errorf("renewing the node's lease: %w", err)
	}
	l.last = found
	return nil
}

// next returns the lease as it is to be written.
func (l *lease) next(last *coordinationv1.Lease, owner *v1.Node, now time.Time) *coordinationv1.Lease {
	out := last.DeepCopy()
	out.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: owner.Name, UID: owner.UID}}
	seconds, at := l.seconds, metav1.NewMicroTime(now)
	out.Spec.HolderIdentity, out.Spec.LeaseDurationSeconds, out.Spec.RenewTime = &l.name, &seconds, &at
	return out
}
