package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// readyWithin is how long after kill -9 and a new start skiff may take until
// it is ready again.
const readyWithin = time.Second

// TestShortCrash is testCrash at few instants. Other packages' tests may run
// beside it, so that it is the usual time that counts, not the longest.
func TestShortCrash(t *testing.T) {
	took, load := testCrash(t, 10)
	within := time.Duration(load * float64(cluster.Within(readyWithin)))
	if usual := took[len(took)/2]; usual > within {
		t.Errorf("it usually took %v to be ready again, more than %v at %.1f times as much work as the machine can do", usual, within, load)
	}
}

// testCrash kills skiff at random instants while clients write and talk.
// What was acknowledged stays, no container restarts, and a connection to the
// application through its Service lives on. It returns how long it took each
// time to be ready again, sorted, and how much work there was for each CPU, 1 or
// more.
func testCrash(t *testing.T, kills int) (took []time.Duration, load float64) {
	m := machine.NewSwitch(t).New(t)
	c := cluster.Start(t, m)
	c.BuildImages(t)
	c.Apply(crashApp)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout="+cluster.Within(time.Minute).String())
	before := containers(t, c)
	talk := startTalk(t, c)
	w := startWriters(c, 4)

	for range kills {
		w.waitFor(t, answersBetween)
		time.Sleep(time.Duration(rand.IntN(450)) * time.Millisecond) // the random instant
		c.Kill(t)
		begin := time.Now()
		c.Node.Start(t)
		c.WaitReady(t)
		took = append(took, time.Since(begin))
		load = max(load, machine.Load(t))
		if err := talk.say(); err != nil {
			t.Fatalf("the connection to the application broke: %v", err)
		}
	}
	w.end()
	slices.Sort(took)
	t.Logf("%d kills: ready again after p50 %v, at most %v; %d writes acknowledged, up to %.1f times as much work as the machine can do",
		kills, took[kills/2], took[kills-1], w.answers, load)
	w.check(t, c)
	c.Eventually("the node is ready and its pods are", 30*time.Second, func() error {
		_, err := c.Try("rollout", "status", "deployment/web", "--timeout=5s")
		return err
	})
	if d := cmp.Diff(before, containers(t, c)); d != "" {
		t.Errorf("containers are not the same (-before +after):\n%s", d)
	}
	return took, load
}

const crashApp = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: ` + cluster.WebApp + `
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: echo, port: 9000}
`

// containers lists the web containers: name and restarts by container id.
func containers(t *testing.T, c *cluster.Cluster) map[string]string {
	t.Helper()
	pods, err := c.Client().CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			all[s.ContainerID] = fmt.Sprintf("%s/%s, %d restarts", p.Name, s.Name, s.RestartCount)
		}
	}
	return all
}

// talk is an open connection to the application through its Service.
type talk struct {
	conn net.Conn
	in   *bufio.Reader
	host string
	said int
}

func startTalk(t *testing.T, c *cluster.Cluster) *talk {
	t.Helper()
	ip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	var conn net.Conn
	c.Eventually("connecting to the service", 10*time.Second, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), cluster.Within(time.Second))
		defer cancel()
		conn, err = c.Machine.Dial(ctx, "tcp", net.JoinHostPort(ip, "9000"))
		return err
	})
	t.Cleanup(func() { conn.Close() })
	k := &talk{conn: conn, in: bufio.NewReader(conn)}
	if err := k.say(); err != nil {
		t.Fatal(err)
	}
	return k
}

// say sends a line and reads the answer, always from the same pod.
func (k *talk) say() error {
	k.said++
	if err := k.conn.SetDeadline(time.Now().Add(cluster.Within(5 * time.Second))); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(k.conn, k.said); err != nil {
		return err
	}
	line, err := k.in.ReadString('\n')
	if err != nil {
		return err
	}
	host, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	if k.host == "" {
		k.host = host
	}
	if host != k.host || text != fmt.Sprint(k.said) {
		return fmt.Errorf("to %d answered %q, after %s had", k.said, line, k.host)
	}
	return nil
}

// write is what a client knows of one ConfigMap.
type write struct {
	value   string   // the last acknowledged
	pending []string // sent later, and not answered: each may be there or not
	version string
}

// writers create and update ConfigMaps of their own and remember the answers.
type writers struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[string]*write
	answers      int
	came         chan struct{} // holds a token when there was another
}

// answersBetween is how many writes are acknowledged between two kills, at
// least: also on a busy machine a server is killed under load.
const answersBetween = 10

// waitFor waits until n more writes have been acknowledged.
func (w *writers) waitFor(t *testing.T, n int) {
	t.Helper()
	w.mu.Lock()
	until := w.answers + n
	w.mu.Unlock()
	limit := time.After(cluster.Within(time.Minute))
	for {
		w.mu.Lock()
		have := w.answers
		w.mu.Unlock()
		if have >= until {
			return
		}
		select {
		case <-w.came:
		case <-limit:
			t.Fatalf("of %d writes %d were acknowledged", n, n-(until-have))
		}
	}
}

func startWriters(c *cluster.Cluster, n int) *writers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{cancel: cancel, acknowledged: map[string]*write{}, came: make(chan struct{}, 1)}
	client := c.Client()
	for i := range n {
		w.done.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				w.write(ctx, client, fmt.Sprintf("w%d-%d", i, k/5), fmt.Sprint(k))
			}
		})
	}
	return w
}

func (w *writers) end() {
	w.cancel()
	w.done.Wait()
}

// write creates or updates one ConfigMap and notes what was answered.
func (w *writers) write(ctx context.Context, client kubernetes.Interface, name, value string) {
	maps := client.CoreV1().ConfigMaps("default")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
	w.mu.Lock()
	known := w.acknowledged[name]
	w.mu.Unlock()
	var got *corev1.ConfigMap
	var err error
	if known == nil {
		if got, err = maps.Create(ctx, object, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			got, err = maps.Update(ctx, object, metav1.UpdateOptions{})
		}
	} else {
		got, err = maps.Update(ctx, object, metav1.UpdateOptions{})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.acknowledged[name] = &write{value: value, version: got.ResourceVersion}
		w.answers++
		select {
		case w.came <- struct{}{}:
		default:
		}
	case known != nil:
		known.pending = append(known.pending, value)
	}
	if err != nil && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond) // nobody is there to answer
	}
}

// check fails the test for every acknowledged write that is not there.
func (w *writers) check(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	list, err := c.Client().CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]*corev1.ConfigMap{}
	for i := range list.Items {
		there[list.Items[i].Name] = &list.Items[i]
	}
	for _, name := range slices.Sorted(maps.Keys(w.acknowledged)) {
		want, got := w.acknowledged[name], there[name]
		switch {
		case got == nil:
			err = errors.Join(err, fmt.Errorf("%s is lost", name))
		case got.Data["value"] == want.value && got.ResourceVersion != want.version && len(want.pending) == 0:
			err = errors.Join(err, fmt.Errorf("%s has version %s, acknowledged was %s", name, got.ResourceVersion, want.version))
		case got.Data["value"] != want.value && !slices.Contains(want.pending, got.Data["value"]):
			err = errors.Join(err, fmt.Errorf("%s is %q, acknowledged was %q, sent since %q", name, got.Data["value"], want.value, want.pending))
		}
	}
	if err != nil {
		t.Error(err)
	}
}
