package robustness

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// kind is what a client asked for.
type kind int

const (
	get kind = iota
	create
	update // if the object still is what the client has read
	remove // the same
)

// answer is what it was told.
type answer int

const (
	unknown answer = iota // nothing: it may have happened or not
	ok
	missing
	exists
	conflict
	unsent // nobody was there to hear it: it has not happened
)

// input and output are the two sides of an operation. An object is known by
// its value, which no two writes share; "" is no object.
type input struct {
	key    string
	kind   kind
	value  string // to be written
	expect string // for update and remove: what the object must be
}

type output struct {
	answer answer
	value  string // read, or written
	object identity
}

// identity is what the server gives an object.
type identity struct {
	uid types.UID
	rev int64
}

// model is one object under these operations.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(input).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, ops := range byKey {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) { return step(state.(string), in.(input), out.(output)) },
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		return fmt.Sprintf("%s %s %q if %q: %s %q", i.key, [...]string{"get", "create", "update", "remove"}[i.kind], i.value, i.expect,
			[...]string{"unknown", "ok", "missing", "exists", "conflict", "unsent"}[o.answer], o.value)
	},
}

// step says whether an object that is state may answer in with out, and what
// it is then. An operation without an answer takes effect if it can; that it
// has not happened is the same as that it happens after all others.
func step(state string, in input, out output) (possible bool, next string) {
	switch out.answer {
	case missing:
		return state == "" && in.kind != create, state
	case exists:
		return state != "" && in.kind == create, state
	case conflict:
		return state != "" && state != in.expect && in.kind != get && in.kind != create, state
	}
	applies := true
	next = in.value
	switch in.kind {
	case get:
		return out.answer == unknown || state == out.value, state
	case create:
		applies = state == ""
	case update, remove:
		applies = state == in.expect
	}
	if !applies {
		return out.answer == unknown, state
	}
	return true, next
}

// recorder runs clients and keeps what they were told.
type recorder struct {
	t       testing.TB
	maps    typedcorev1.ConfigMapInterface
	began   time.Time
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	history []porcupine.Operation
	unsent  int

	answered int
	more     *sync.Cond // answers, below mu
}

const namespace = "default"

// record starts clients that create, read, change and remove some objects.
func record(t testing.TB, api kubernetes.Interface, clients, keys int) *recorder {
	r := &recorder{t: t, maps: api.CoreV1().ConfigMaps(namespace), began: time.Now()}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.more = sync.NewCond(&r.mu)
	for id := range clients {
		r.wg.Go(func() { r.client(id, keys) })
	}
	return r
}

// client is one client. It remembers what it has read of each object last, and
// sets its conditions by that.
func (r *recorder) client(id, keys int) {
	read := make([]*corev1.ConfigMap, keys)
	for n := 0; r.ctx.Err() == nil; n++ {
		i := rand.IntN(keys)
		in := input{key: fmt.Sprint("key-", i), value: fmt.Sprintf("%d-%d", id, n)}
		switch have := read[i]; {
		case rand.IntN(3) == 0:
			in.kind, in.value = get, ""
		case have == nil:
			in.kind = create
		case rand.IntN(6) == 0:
			in.kind, in.value, in.expect = remove, "", have.Data["value"]
		default:
			in.kind, in.expect = update, have.Data["value"]
		}
		out, now := r.do(id, in, read[i])
		switch {
		case out.answer == ok || out.answer == missing:
			read[i] = now
		case (out.answer == unknown || out.answer == unsent) && r.ctx.Err() == nil:
			time.Sleep(5 * time.Millisecond) // the server is down; this is no test of how fast it refuses
		case out.answer == exists || out.answer == conflict:
			_, read[i] = r.do(id, input{key: in.key, kind: get}, nil)
		}
	}
}

// patience is how long a client waits for an answer.
const patience = 10 * time.Second

// do carries out one operation and records it. have is the object that it is
// conditional on.
func (r *recorder) do(id int, in input, have *corev1.ConfigMap) (output, *corev1.ConfigMap) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	op := porcupine.Operation{ClientId: id, Input: in, Call: time.Since(r.began).Nanoseconds()}
	got, err := r.send(ctx, in, have)
	op.Return = time.Since(r.began).Nanoseconds()
	out := output{answer: judge(err)}
	if out.answer == ok && in.kind != remove {
		out.value = got.Data["value"]
		rev, perr := strconv.ParseInt(got.ResourceVersion, 10, 64)
		if perr != nil {
			r.t.Errorf("resourceVersion %q: %v", got.ResourceVersion, perr)
		}
		out.object = identity{got.UID, rev}
	} else {
		got = nil
	}
	op.Output = out
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case out.answer == unsent:
		r.unsent++
	case in.kind != get || out.answer != unknown: // a read without an answer says nothing
		r.history = append(r.history, op)
	}
	if out.answer != unsent && out.answer != unknown {
		r.answered++
		r.more.Broadcast()
	}
	return out, got
}

// await returns when the clients have been answered so often, all in all:
// without load there is nothing that a fault could harm.
func (r *recorder) await(answers int) {
	r.t.Helper()
	timer := time.AfterFunc(startup, r.more.Broadcast)
	defer timer.Stop()
	limit := time.Now().Add(startup)
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.answered < answers && time.Now().Before(limit) {
		r.more.Wait()
	}
	if r.answered < answers {
		r.t.Fatalf("only %d operations were answered: that is no load", r.answered)
	}
}

func (r *recorder) send(ctx context.Context, in input, have *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	switch in.kind {
	case get:
		return r.maps.Get(ctx, in.key, metav1.GetOptions{})
	case create:
		return r.maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: in.key}, Data: map[string]string{"value": in.value},
		}, metav1.CreateOptions{})
	case update:
		changed := have.DeepCopy()
		changed.Data = map[string]string{"value": in.value}
		return r.maps.Update(ctx, changed, metav1.UpdateOptions{})
	}
	return nil, r.maps.Delete(ctx, in.key, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &have.UID, ResourceVersion: &have.ResourceVersion},
	})
}

// judge tells answers from silence. An error of the server's own may come
// before or after the write.
func judge(err error) answer {
	switch {
	case err == nil:
		return ok
	case apierrors.IsNotFound(err):
		return missing
	case apierrors.IsAlreadyExists(err):
		return exists
	case apierrors.IsConflict(err):
		return conflict
	case utilnet.IsConnectionRefused(err):
		return unsent
	}
	return unknown
}

// finish stops the clients, reads every object once more, and holds the whole
// history against the model.
func (r *recorder) finish(keys int) {
	r.t.Helper()
	r.stop()
	r.wg.Wait()
	for i := range keys {
		if out, _ := r.do(-1, input{key: fmt.Sprint("key-", i), kind: get}, nil); out.answer == unknown || out.answer == unsent {
			r.t.Errorf("key-%d cannot be read at the end", i)
		}
	}
	r.checkIdentities()
	r.checkOrder()
	history := r.relevant()
	res, info := porcupine.CheckOperationsVerbose(model, history, 30*time.Second)
	if res == porcupine.Illegal {
		r.t.Errorf("I1-I4: the history of %d operations is not linearizable", len(history))
		if err := porcupine.VisualizePath(model, info, "/tmp/skiff-robustness.html"); err == nil {
			r.t.Log("see /tmp/skiff-robustness.html")
		}
	}
	if res == porcupine.Unknown {
		r.t.Errorf("the history of %d operations could not be checked in time", len(history))
	}
}

// relevant leaves out the writes without an answer whose value nobody ever saw:
// it would have stayed until somebody saw it, since only who has seen a value
// replaces it. Those that remain may happen at any time until the end.
func (r *recorder) relevant() (out []porcupine.Operation) {
	seen := map[string]bool{}
	var end int64
	for _, op := range r.history {
		seen[op.Output.(output).value] = true
		seen[op.Input.(input).expect] = true
		end = max(end, op.Return)
	}
	for _, op := range r.history {
		if in := op.Input.(input); op.Output.(output).answer == unknown {
			if in.kind != remove && !seen[in.value] {
				continue
			}
			op.Return = end + 1
		}
		out = append(out, op)
	}
	return out
}

// checkIdentities checks that each value is always shown with the uid and the
// resourceVersion that it was acknowledged with (I1, I10).
func (r *recorder) checkIdentities() {
	r.t.Helper()
	known := map[string]identity{}
	revs := map[int64]string{}
	for _, op := range r.history {
		out := op.Output.(output)
		if out.value == "" {
			continue
		}
		if was, seen := known[out.value]; seen && was != out.object {
			r.t.Errorf("I1: value %s was %v and is %v", out.value, was, out.object)
		}
		known[out.value] = out.object
		if other, taken := revs[out.object.rev]; taken && other != out.value {
			r.t.Errorf("I4: values %s and %s both have resourceVersion %d", other, out.value, out.object.rev)
		}
		revs[out.object.rev] = out.value
	}
}

// checkOrder checks that a write that began after another was acknowledged has
// the higher resourceVersion, over all objects (I4).
func (r *recorder) checkOrder() {
	r.t.Helper()
	type written struct{ call, ret, rev int64 }
	var writes []written
	for _, op := range r.history {
		if out := op.Output.(output); out.answer == ok && out.value != "" && op.Input.(input).kind != get {
			writes = append(writes, written{op.Call, op.Return, out.object.rev})
		}
	}
	byReturn := slices.Clone(writes)
	slices.SortFunc(byReturn, func(a, b written) int { return cmp.Compare(a.ret, b.ret) })
	slices.SortFunc(writes, func(a, b written) int { return cmp.Compare(a.call, b.call) })
	var highest int64
	for i := 0; len(writes) > 0; writes = writes[1:] {
		for ; i < len(byReturn) && byReturn[i].ret < writes[0].call; i++ {
			highest = max(highest, byReturn[i].rev)
		}
		if writes[0].rev <= highest {
			r.t.Errorf("I4: resourceVersion %d was given after %d had been", writes[0].rev, highest)
		}
	}
}

// acknowledged returns the writes that were, by resourceVersion, and how many
// removals were.
func (r *recorder) acknowledged() (values map[int64]string, removals int) {
	values = map[int64]string{}
	for _, op := range r.history {
		in, out := op.Input.(input), op.Output.(output)
		switch {
		case out.answer != ok || in.kind == get:
		case in.kind == remove:
			removals++
		default:
			values[out.object.rev] = out.value
		}
	}
	return values, removals
}

// counts says how many operations were answered and how many were not.
func (r *recorder) counts() (answered, silent int) {
	for _, op := range r.history {
		if op.Output.(output).answer == unknown {
			silent++
		} else {
			answered++
		}
	}
	return answered, silent + r.unsent
}
