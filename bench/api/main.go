// Command api measures an API server under load: create, get, update, list and
// delete of ConfigMaps in JSON and protobuf, and watch fan-out; --steps chooses
// among them. With --pids it also tells what the server's processes spend. It
// works in a namespace of its own, which it empties.
//
//	go run ./bench/api --kubeconfig ~/.kube/config --pids "$(pidof kube-apiserver)"
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

type bench struct {
	kubeconfig  string
	client      *load.Client
	pids        []int
	namespace   string
	steps       []string
	filled      bool // all objects are there
	objects     int
	size        int
	concurrency int
	lists       int
	watchers    int
	events      int
	out         measure.Results
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/api:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var b bench
	pflag.StringVar(&b.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "cluster to measure")
	pids := pflag.String("pids", "", "processes of the server, whose CPU time and memory are told")
	media := pflag.StringSlice("media", []string{"json", "protobuf"}, "encodings to measure")
	asJSON := pflag.Bool("json", false, "print JSON lines")
	pflag.StringSliceVar(&b.steps, "steps", allSteps, "what to measure; objects are made in any case")
	pflag.StringVar(&b.namespace, "namespace", "bench-api", "namespace to work in")
	pflag.IntVar(&b.objects, "objects", 2000, "how many objects to create, get, update and list")
	pflag.IntVar(&b.size, "size", 1000, "bytes of data in each object")
	pflag.IntVar(&b.concurrency, "concurrency", 16, "requests under way at a time")
	pflag.IntVar(&b.lists, "lists", 20, "how many times everything is listed")
	pflag.IntVar(&b.watchers, "watchers", 200, "watches open at a time")
	pflag.IntVar(&b.events, "events", 200, "changes sent to all watches")
	pflag.Parse()
	var err error
	if b.pids, err = measure.ParsePIDs(*pids); err != nil {
		return err
	}
	for _, s := range b.steps {
		if !slices.Contains(allSteps, s) {
			return fmt.Errorf("there is no step %q; there are %s", s, strings.Join(allSteps, ", "))
		}
	}
	if b.client, err = load.Dial(b.kubeconfig, 4); err != nil {
		return err
	}
	if err := b.client.Namespace(ctx, b.namespace); err != nil {
		return err
	}
	for _, name := range *media {
		if err := b.measure(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(b.pids) > 0 {
		after, err := measure.Of(b.pids...)
		if err != nil {
			return err
		}
		b.out.Add("api.rss", "MiB", float64(after.RSS)/(1<<20), "resident memory right after the load")
	}
	if err := b.client.DeleteAll(ctx, b.path()); err != nil {
		return err
	}
	return b.out.Write(os.Stdout, *asJSON)
}

func (b *bench) path(name ...string) string {
	return strings.Join(append([]string{"/api/v1/namespaces/" + b.namespace + "/configmaps"}, name...), "/")
}

// object is the i-th ConfigMap; mark stands in it in clear.
func (b *bench) object(i int, mark string) *corev1.ConfigMap {
	data := strings.Repeat("0123456789abcdef", b.size/16+1)[:b.size]
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("object-%06d", i), Namespace: b.namespace,
			Labels: map[string]string{"app": "bench", "shard": fmt.Sprint(i % 10)},
		},
		Data: map[string]string{"data": data, "mark": mark},
	}
}

func (b *bench) measure(ctx context.Context, name string) error {
	media := load.JSON
	if name == "protobuf" {
		media = load.Protobuf
	}
	bodies := map[string][][]byte{}
	for _, mark := range []string{"created", "updated", "updated again"} {
		for i := range b.objects {
			body, err := load.Encode(media, b.object(i, mark))
			if err != nil {
				return err
			}
			bodies[mark] = append(bodies[mark], body)
		}
	}
	object := func(i int) string { return b.path(fmt.Sprintf("object-%06d", i)) }
	steps := []step{
		{"create", b.objects, b.concurrency, func(ctx context.Context, i int) error {
			_, err := b.client.Discard(ctx, "POST", b.path(), media, bodies["created"][i])
			return err
		}},
		{"get", b.objects, b.concurrency, func(ctx context.Context, i int) error {
			_, err := b.client.Discard(ctx, "GET", object(i), media, nil)
			return err
		}},
		{"update", b.objects, b.concurrency, func(ctx context.Context, i int) error {
			_, err := b.client.Discard(ctx, "PUT", object(i), media, bodies["updated"][i])
			return err
		}},
		{"update1", b.objects, 1, func(ctx context.Context, i int) error {
			_, err := b.client.Discard(ctx, "PUT", object(i), media, bodies["updated again"][i])
			return err
		}},
		{"list", b.lists, 2, func(ctx context.Context, i int) error {
			_, err := b.client.Discard(ctx, "GET", b.path(), media, nil)
			return err
		}},
		{"list0", b.lists, 2, func(ctx context.Context, i int) error {
			_, err := b.client.Discard(ctx, "GET", b.path()+"?resourceVersion=0", media, nil)
			return err
		}},
		{"watch", 0, 0, nil},
		{"delete", b.objects, b.concurrency, func(ctx context.Context, i int) error {
			_, err := b.client.Discard(ctx, "DELETE", object(i), media, nil)
			return err
		}},
	}
	for _, s := range steps {
		if err := b.take(ctx, name, media, s); err != nil {
			return fmt.Errorf("%s: %w", s.verb, err)
		}
	}
	return nil
}

// A step is a request sent n times, some of them at a time.
type step struct {
	verb        string
	n, parallel int
	do          func(ctx context.Context, i int) error
}

// take takes a step, if it was asked for. All others need the objects that
// create leaves, and delete takes them away.
func (b *bench) take(ctx context.Context, name, media string, s step) error {
	asked := slices.Contains(b.steps, s.verb)
	if s.verb == "create" && (asked || !b.filled) {
		if err := b.client.DeleteAll(ctx, b.path()); err != nil {
			return err
		}
		b.filled = true
		if !asked {
			_, _, err := load.Parallel(ctx, s.n, s.parallel, s.do)
			return err
		}
	}
	switch {
	case !asked:
		return nil
	case s.verb == "watch":
		return b.fanOut(ctx, name, media)
	case s.verb == "delete":
		b.filled = false
	}
	return b.step(ctx, name, s)
}

// allSteps are those there are, in their order.
var allSteps = []string{"create", "get", "update", "update1", "list", "list0", "watch", "delete"}

// what the steps measure, in words.
var words = map[string]string{
	"create": "create", "get": "get", "update": "update",
	"update1": "update, one client", "list": "list all, consistent", "list0": "list all, from cache",
	"delete": "delete",
}

// breather is what the disk is given for the writes of many clients before
// those of one are measured.
const breather = time.Second

func (b *bench) step(ctx context.Context, name string, s step) error {
	if s.parallel == 1 {
		time.Sleep(breather)
	}
	before, err := measure.Of(b.pids...)
	if err != nil {
		return err
	}
	times, took, err := load.Parallel(ctx, s.n, s.parallel, s.do)
	if err != nil {
		return err
	}
	key, text := "api."+name+"."+s.verb, words[s.verb]+", "+name
	b.out.Add(key+".rate", "op/s", float64(s.n)/took.Seconds(), "%s, %d at a time", text, s.parallel)
	b.out.Add(key+".p50", "s", times.Percentile(50), "%s: median", text)
	b.out.Add(key+".p99", "s", times.Percentile(99), "%s: 99th percentile", text)
	return b.spent(before, key+".cpu", float64(s.n), "%s: server CPU per request", text)
}

// spent notes the server's CPU time since before, for each of n operations.
func (b *bench) spent(before measure.Usage, key string, n float64, text string, args ...any) error {
	if len(b.pids) == 0 {
		return nil
	}
	after, err := measure.Of(b.pids...)
	if err != nil {
		return err
	}
	b.out.Add(key, "s", (after.CPU-before.CPU)/n, text, args...)
	return nil
}

// watchDeadline is how long the last event may take to reach the last watcher.
const watchDeadline = time.Minute
