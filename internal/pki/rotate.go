package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"
	"time"
)

// renewAt is the part of its lifetime after which a certificate is replaced.
const renewAt = 0.8

// Rotator hands out a certificate and replaces it in time, without a restart.
// It looks at the wall clock whenever a certificate is asked for, so a clock
// that jumps a year ahead is noticed at the next handshake; an idle Rotator
// does nothing.
type Rotator struct {
	issue  func(context.Context) (*tls.Certificate, error)
	ctx    context.Context
	cancel context.CancelFunc
	jobs   sync.WaitGroup

	mu      sync.Mutex
	current *tls.Certificate
	running *renewal  // the renewal under way
	retry   time.Time // after a failure, not before
}

// renewal is one call of issue.
type renewal struct {
	done chan struct{}
	err  error
}

// NewRotator gets a first certificate from issue, which is called again for
// each later one and may be slow (a signing request to a server).
func NewRotator(ctx context.Context, issue func(context.Context) (*tls.Certificate, error)) (*Rotator, error) {
	first, err := issue(ctx)
	if err != nil {
		return nil, err
	}
	r := &Rotator{issue: issue}
	if err := r.use(first); err != nil {
		return nil, err
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// NewAuthorityRotator rotates certificates of an authority at hand. Servers
// send the authority along: a node that joins compares it with its token's pin.
func NewAuthorityRotator(ctx context.Context, a *Authority, request Request) (*Rotator, error) {
	return NewRotator(ctx, func(context.Context) (*tls.Certificate, error) {
		pair, err := a.Issue(request)
		if err != nil {
			return nil, err
		}
		cert := pair.TLS()
		if request.Usage&Server != 0 {
			cert.Certificate = append(cert.Certificate, a.Cert.Raw)
		}
		return cert, nil
	})
}

// use makes cert the current one; the caller holds mu or is alone.
func (r *Rotator) use(cert *tls.Certificate) error {
	if cert.Leaf == nil {
		if len(cert.Certificate) == 0 {
			return errors.New("a certificate without content was issued")
		}
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			return err
		}
		cert.Leaf = leaf
	}
	r.current = cert
	return nil
}

// dueAt is when the certificate should be replaced.
func dueAt(leaf *x509.Certificate) time.Time {
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	return leaf.NotBefore.Add(time.Duration(float64(lifetime) * renewAt))
}

// Certificate returns a valid certificate. It waits for a new one only if the
// current one is not valid (any more); otherwise renewal goes on behind it.
func (r *Rotator) Certificate(ctx context.Context) (*tls.Certificate, error) {
	now := time.Now()
	r.mu.Lock()
	cert := r.current
	valid := !now.Before(cert.Leaf.NotBefore) && now.Before(cert.Leaf.NotAfter)
	if valid && now.Before(dueAt(cert.Leaf)) {
		r.mu.Unlock()
		return cert, nil
	}
	job := r.renew(now, valid)
	r.mu.Unlock()
	if valid || job == nil {
		return cert, nil
	}
	select {
	case <-job.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if job.err != nil {
		return nil, job.err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, nil
}

// renew starts a renewal if none runs; the caller holds mu. After a failure a
// valid certificate is left alone for a while.
func (r *Rotator) renew(now time.Time, valid bool) *renewal {
	if r.running != nil {
		return r.running
	}
	if r.ctx.Err() != nil || (valid && now.Before(r.retry)) {
		return nil
	}
	job := &renewal{done: make(chan struct{})}
	r.running = job
	r.jobs.Go(func() {
		defer close(job.done)
		cert, err := r.issue(r.ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err == nil {
			err = r.use(cert)
		}
		if err != nil {
			r.retry = time.Now().Add(time.Minute)
		}
		job.err, r.running = err, nil
	})
	return job
}

// GetCertificate is for tls.Config of a server.
func (r *Rotator) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return r.Certificate(hello.Context())
}

// GetClientCertificate is for tls.Config of a client.
func (r *Rotator) GetClientCertificate(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.Certificate(info.Context())
}

// Close ends a renewal that is under way.
func (r *Rotator) Close() {
	r.mu.Lock()
	r.cancel() // under mu, so that no renewal starts from here on
	r.mu.Unlock()
	r.jobs.Wait()
}
