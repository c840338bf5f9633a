package leaderelection

import (
	"context"
	"errors"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

func scope(c Config) watchcache.Scope {
	return watchcache.Scope{Namespace: c.ResourceNamespace, Name: c.ResourceName}
}

// lead runs the job and renews the Lease beside it.
func (e *Elector) lead(ctx context.Context, lease *coordinationv1.Lease, job func(context.Context) error) error {
	leading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// The deadline does not depend on a request that may hang.
	deadline := time.AfterFunc(e.left(), func() { stop(ErrLost) })
	defer deadline.Stop()
	done := make(chan error, 1)
	go func() { done <- job(leading) }()
	renew := time.NewTicker(e.cfg.RetryPeriod)
	defer renew.Stop()
	for {
		select {
		case err := <-done:
			if errors.Is(context.Cause(leading), ErrLost) {
				return e.lost(ctx, lease)
			}
			e.release(ctx, lease)
			return err
		case <-leading.Done():
			err := <-done
			if errors.Is(context.Cause(leading), ErrLost) {
				return e.lost(ctx, lease)
			}
			e.release(ctx, lease)
			return err
		case <-renew.C:
			got, err := e.renew(leading, lease)
			switch {
			case err == nil:
				lease = got
				deadline.Reset(e.left())
			case errors.Is(err, ErrLost):
				stop(ErrLost)
			case ctx.Err() == nil:
				slog.WarnContext(ctx, "the lease could not be renewed", "lease", e.cfg.ResourceName, "err", err)
			}
		}
	}
}

// left is how long the lead lasts without another renewal.
func (e *Elector) left() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Until(e.renewed.Add(e.cfg.RenewDeadline))
}

// renew tells the others that this process lives. ErrLost means that somebody
// else has the Lease.
func (e *Elector) renew(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	begun := time.Now()
	got, err := e.kind().Update(ctx, e.claim(meta.Copy(lease)))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		begun = time.Now()
		now, gerr := e.kind().Get(ctx, e.cfg.ResourceNamespace, e.cfg.ResourceName)
		switch {
		case apierrors.IsNotFound(gerr):
			return nil, ErrLost // deleted: another may have made it and lost it since
		case gerr != nil:
			return nil, gerr
		case now.Spec.HolderIdentity == nil || *now.Spec.HolderIdentity != e.cfg.Identity || now.UID != lease.UID:
			return nil, ErrLost
		}
		got, err = e.kind().Update(ctx, e.claim(meta.Copy(now)))
	}
	if err != nil {
		return nil, err
	}
	e.note(got, begun)
	return got, nil
}

func (e *Elector) lost(ctx context.Context, lease *coordinationv1.Lease) error {
	e.resign()
	slog.WarnContext(ctx, "no longer leading", "lease", e.cfg.ResourceName, "identity", e.cfg.Identity)
	e.events.Normal(lease, "LeaderElection", "%s stopped leading", e.cfg.Identity)
	return ErrLost
}

func (e *Elector) resign() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renewed = time.Time{}
}

// release gives the Lease back so that another need not wait for it to expire.
func (e *Elector) release(ctx context.Context, lease *coordinationv1.Lease) {
	e.resign()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.RetryPeriod)
	defer cancel()
	now, err := e.kind().Get(ctx, e.cfg.ResourceNamespace, e.cfg.ResourceName)
	if err == nil && now.UID == lease.UID && now.Spec.HolderIdentity != nil && *now.Spec.HolderIdentity == e.cfg.Identity {
		now = meta.Copy(now)
		nobody, second, at := "", int32(1), metav1.NowMicro()
		now.Spec.HolderIdentity, now.Spec.LeaseDurationSeconds, now.Spec.RenewTime, now.Spec.AcquireTime = &nobody, &second, &at, &at
		_, err = e.kind().Update(ctx, now)
	}
	if err != nil {
		slog.WarnContext(ctx, "the lease could not be released, it will expire", "lease", e.cfg.ResourceName, "err", err)
		return
	}
	e.events.Normal(lease, "LeaderElection", "%s stopped leading", e.cfg.Identity)
}

// Fence returns t such that it writes only while this process leads. A context
// ends too late for a write that is about to be made when the process has been
// stopped for a while; and a write that hangs must not outlast the lead.
func (e *Elector) Fence(t client.Transport) client.Transport { return &fenced{Transport: t, e: e} }

type fenced struct {
	client.Transport
	e *Elector
}

func (f *fenced) enter(ctx context.Context) (context.Context, context.CancelFunc, error) {
	until, ok := f.e.until()
	if !ok {
		return nil, nil, ErrLost
	}
	if until.IsZero() {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithDeadlineCause(ctx, until, ErrLost)
	return ctx, cancel, nil
}

// Create implements client.Transport.
func (f *fenced) Create(ctx context.Context, ref client.Ref, obj runtime.Object, opts metav1.CreateOptions) (runtime.Object, error) {
	ctx, cancel, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return f.Transport.Create(ctx, ref, obj, opts)
}

// Update implements client.Transport.
func (f *fenced) Update(ctx context.Context, ref client.Ref, obj meta.Object, opts metav1.UpdateOptions) (meta.Object, error) {
	ctx, cancel, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return f.Transport.Update(ctx, ref, obj, opts)
}

// Patch implements client.Transport.
func (f *fenced) Patch(ctx context.Context, ref client.Ref, pt types.PatchType, data []byte, opts metav1.PatchOptions) (meta.Object, error) {
	ctx, cancel, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return f.Transport.Patch(ctx, ref, pt, data, opts)
}

// Delete implements client.Transport.
func (f *fenced) Delete(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions) (string, error) {
	ctx, cancel, err := f.enter(ctx)
	if err != nil {
		return "", err
	}
	defer cancel()
	return f.Transport.Delete(ctx, ref, opts)
}

// DeleteCollection implements client.Transport.
func (f *fenced) DeleteCollection(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions, list metav1.ListOptions) error {
	ctx, cancel, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return f.Transport.DeleteCollection(ctx, ref, opts, list)
}
