// Package controltest runs controllers against the real API verbs over a
// store in memory. It belongs inside a testing/synctest bubble, where time is
// virtual and Settle waits until nobody has anything left to do. Only tests
// import it.
package controltest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/inprocess"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/resources"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store/mem"
)

// World is an API without a network, and what runs against it.
type World struct {
	t      *testing.T
	Engine *verbs.Engine
	// Client may do everything.
	Client *client.Client
	Events *Events
	store  *mem.Store
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Nobody is the only user whom access reviews say no to.
const Nobody = "nobody"

// New returns a world with the namespace "default", and more resources than
// those that every server has. It must be closed before the bubble ends.
func New(t *testing.T, more ...resource.Any) *World {
	t.Helper()
	s := mem.New()
	e, err := verbs.Open(t.Context(), verbs.Config{Store: s, Resources: with(All(), more), VerifyImmutability: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &World{t: t, Engine: e, Events: &Events{}, store: s}
	w.ctx, w.cancel = context.WithCancel(t.Context())
	w.Client = w.As("admin", authz.Func(allow))
	Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	return w
}

func allow(_ context.Context, u *request.User, _ *request.Info) (authz.Decision, string, error) {
	if u.Name == Nobody {
		return authz.Deny, "", nil
	}
	return authz.Allow, "", nil
}

// with returns all and those of more that are not there yet.
func with(all, more []resource.Any) []resource.Any {
	for _, m := range more {
		if !slices.ContainsFunc(all, func(a resource.Any) bool { return a.Info().Name.GVR() == m.Info().Name.GVR() }) {
			all = append(all, m)
		}
	}
	return all
}

// All returns the definitions of all resources.
func All() []resource.Any {
	return resources.All(resources.Needs{Authorizer: authz.Func(allow), Services: core.ServiceConfig{
		CIDRs:         []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")},
		FirstNodePort: 30000, LastNodePort: 32767,
	}})
}

// As returns a client for the user of that name whom a judges.
func (w *World) As(user string, a authz.Authorizer) *client.Client {
	return client.New(inprocess.New(w.Engine, a, &request.User{Name: user, Groups: []string{request.GroupAuthenticated}}, user))
}

// Close stops everything.
func (w *World) Close() {
	w.cancel()
	w.wg.Wait()
	w.Engine.Close()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

// Run runs controllers until the world is closed or stop is called.
func (w *World) Run(all ...*controller.Controller) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	for _, c := range all {
		run := func() {
			if err := c.Run(ctx); err != nil {
				w.t.Errorf("controller %s: %v", c.Name(), err)
			}
		}
		wg.Go(run)
		w.wg.Go(wg.Wait)
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// Settle waits until every goroutine of the bubble waits for something.
func (w *World) Settle() { synctest.Wait() }

// Create creates obj.
func Create[T meta.Object](w *World, obj T) T {
	w.t.Helper()
	got, err := client.For[T](w.Client).Create(w.ctx, obj)
	if err != nil {
		w.t.Fatalf("creating %T %s: %v", obj, obj.GetName(), err)
	}
	return got
}

// Get reads the object as the API has it now.
func Get[T meta.Object](w *World, namespace, name string) T {
	w.t.Helper()
	got, err := client.For[T](w.Client).Get(w.ctx, namespace, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// List reads all objects of a namespace.
func List[T meta.Object](w *World, namespace string) []T {
	w.t.Helper()
	got, err := client.For[T](w.Client).List(w.ctx, namespace, metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// Update changes an object, and its status if it has one, and again where
// somebody else has been faster.
func Update[T meta.Object](w *World, obj T, change func(T)) T {
	w.t.Helper()
	got := write(w, obj, change, client.For[T](w.Client).Update)
	if res, ok := w.Engine.Resource(client.ResourceOf[T]()); ok && res.Info().HasStatus {
		got = write(w, obj, change, client.For[T](w.Client).UpdateStatus)
	}
	return got
}

func write[T meta.Object](w *World, obj T, change func(T), write func(context.Context, T) (T, error)) T {
	w.t.Helper()
	for {
		now := meta.Copy(Get[T](w, obj.GetNamespace(), obj.GetName()))
		change(now)
		got, err := write(w.ctx, now)
		if err == nil {
			return got
		}
		if !apierrors.IsConflict(err) {
			w.t.Fatalf("updating %T %s: %v", obj, obj.GetName(), err)
		}
	}
}

// Delete deletes an object with the given propagation ("" for none).
func Delete[T meta.Object](w *World, namespace, name string, policy metav1.DeletionPropagation) {
	w.t.Helper()
	var opts metav1.DeleteOptions
	if policy != "" {
		opts.PropagationPolicy = &policy
	}
	if err := client.For[T](w.Client).Delete(w.ctx, namespace, name, opts); err != nil {
		w.t.Fatalf("deleting %s: %v", name, err)
	}
}

// Resources lists the stored resources, as a server's discovery would.
func (w *World) Resources(context.Context) (all []controller.Resource, err error) {
	for _, r := range w.Engine.Resources() {
		if info := r.Info(); !info.Virtual {
			all = append(all, controller.Resource{
				GroupVersionResource: info.Name.GVR(), Kind: info.Name.Kind, Namespaced: info.Scope == resource.Namespaced,
			})
		}
	}
	return all, nil
}

// Events keeps what is reported, as "Type Reason object: note".
type Events struct {
	mu  sync.Mutex
	all []string
}

// Normal implements client.Events.
func (e *Events) Normal(obj meta.Object, reason, note string, args ...any) {
	e.add("Normal", obj, reason, fmt.Sprintf(note, args...))
}

// Warning implements client.Events.
func (e *Events) Warning(obj meta.Object, reason, note string, args ...any) {
	e.add("Warning", obj, reason, fmt.Sprintf(note, args...))
}

func (e *Events) add(typ string, obj meta.Object, reason, note string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf("%s %s %s: %s", typ, reason, obj.GetName(), note))
}

// With returns the events whose text contains part.
func (e *Events) With(part string) (found []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.all {
		if strings.Contains(s, part) {
			found = append(found, s)
		}
	}
	return found
}
