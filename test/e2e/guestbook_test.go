// Package e2e tests the built binary with real containers on pretended
// machines. What has TestShort in its name runs in `make test`, the rest, under
// the build tag e2e, in `make e2e`.
package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// TestShortGuestbook is `make up`, the life of the application, `make down`.
func TestShortGuestbook(t *testing.T) {
	installRedis(t) // a pretended machine reaches no packages
	sw := machine.NewSwitch(t)
	m := sw.New(t)
	binary := cluster.Binary(t)
	data := filepath.Join(t.TempDir(), "data")
	script := func(name string) string {
		return m.Run(t, "env", "SKIFF="+binary, "sh", filepath.Join(cluster.Root(), "examples", "guestbook", name), data)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(data, "skiff.log"))
			t.Logf("log:\n%s", log)
		}
		script("down.sh")
		m.CheckNothingLeft(t, data)
	})
	begin := time.Now()
	out := script("up.sh")
	t.Logf("up after %v", time.Since(begin))
	address := "http://" + m.IP + ":30080/"
	if err := cluster.Want(out, address); err != nil {
		t.Error(err)
	}
	g := &guestbook{t: t, c: cluster.Adopt(t, m, data), url: address, sw: sw}
	g.signAndRead()
	g.readByName()
	g.roll()
	g.scale()
	g.deleteNamespace()
}

// installRedis returns a directory with redis-server and redis-cli.
func installRedis(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("sh", filepath.Join(cluster.Root(), "examples", "guestbook", "redis.sh"), dir).CombinedOutput(); err != nil {
		t.Fatalf("installing redis: %v\n%s", err, out)
	}
	return dir
}

type guestbook struct {
	t   *testing.T
	c   *cluster.Cluster
	sw  *machine.Switch
	url string
}

func (g *guestbook) kubectl(args ...string) string {
	g.t.Helper()
	return g.c.Kubectl(append([]string{"-n", "guestbook"}, args...)...)
}

// signAndRead writes an entry over the node port and reads it, from the node
// and from elsewhere.
func (g *guestbook) signAndRead() {
	g.t.Helper()
	outside := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: g.sw.Dial}}
	entry := "written at " + time.Now().Format(time.RFC3339Nano)
	res, err := outside.PostForm(g.url, url.Values{"entry": {entry}})
	if err != nil {
		g.t.Fatal(err)
	}
	res.Body.Close()
	for name, client := range map[string]*http.Client{"outside": outside, "the node": g.c.HTTP(5 * time.Second)} {
		g.c.Eventually("reading from "+name, 30*time.Second, func() error {
			page, err := get(client, g.url)
			if err != nil {
				return err
			}
			return cluster.Want(page, entry)
		})
	}
}

// readByName reads by the service's name from another pod.
func (g *guestbook) readByName() {
	g.t.Helper()
	g.c.BuildImages(g.t)
	g.kubectl("run", "reader", "--image", cluster.Tools, "--restart=Never", "--",
		"sh", "-c", "wget -q -O - http://frontend/ | grep 'The skiff guestbook'")
	g.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reader", "--timeout=30s")
}

// roll changes the front end and takes the change back, while a visitor comes
// and goes.
func (g *guestbook) roll() {
	g.t.Helper()
	v := visit(g.sw, g.url)
	image := func() string {
		return g.kubectl("get", "deployment", "frontend", "-o", "jsonpath={.spec.template.spec.containers[0].env[*].name}")
	}
	before := image()
	g.kubectl("set", "env", "deployment/frontend", "ROLLED=1")
	g.kubectl("rollout", "status", "deployment/frontend", "--timeout=60s")
	if err := cluster.Want(image(), "ROLLED"); err != nil {
		g.t.Error(err)
	}
	g.kubectl("rollout", "undo", "deployment/frontend")
	g.kubectl("rollout", "status", "deployment/frontend", "--timeout=60s")
	if after := image(); after != before {
		g.t.Errorf("after the rollback the environment is %s, not %s", after, before)
	}
	v.end(g.t)
}

func (g *guestbook) scale() {
	g.t.Helper()
	for _, n := range []string{"6", "2"} {
		g.kubectl("scale", "deployment/frontend", "--replicas="+n)
		g.kubectl("rollout", "status", "deployment/frontend", "--timeout=60s")
		g.c.Eventually(n+" pods", time.Minute, func() error {
			pods := strings.Fields(g.kubectl("get", "pods", "-l", "app=frontend", "-o", "name"))
			if fmt.Sprint(len(pods)) != n {
				return fmt.Errorf("there are %d pods: %v", len(pods), pods)
			}
			return nil
		})
	}
}

// deleteNamespace leaves nothing of the application in the API, and its port
// closed.
func (g *guestbook) deleteNamespace() {
	g.t.Helper()
	begin := time.Now()
	g.c.Kubectl("delete", "namespace", "guestbook", "--timeout=90s")
	g.t.Logf("the namespace was gone after %v", time.Since(begin))
	for _, kinds := range []string{"pods,services,endpoints,endpointslices,configmaps,secrets,serviceaccounts,deployments,replicasets,events,leases"} {
		if out, err := g.c.Try("get", kinds, "-n", "guestbook", "-o", "name"); err != nil || out != "No resources found in guestbook namespace.\n" && out != "" {
			g.t.Errorf("after the namespace's end there is: %v %s", err, out)
		}
	}
	if page, err := get(g.c.HTTP(time.Second), g.url); err == nil {
		g.t.Errorf("the node port still answers: %s", page)
	}
}
