package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"skiff.dev/skiff/internal/apiserver"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/testing/apitest"
)

func ask(t *testing.T, api *apitest.API, token, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, api.HTTP.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestMetrics(t *testing.T) {
	reg := observe.NewRegistry()
	api := apitest.Start(t, func(c *controlplane.Config) {
		c.Metrics = apiserver.NewMetrics(reg)
		c.Pages = map[string]http.Handler{"/metrics": observe.MetricsPage(reg)}
	})
	reg.MustRegister(api.Plane.Server.Collector())
	ask(t, api, apitest.Admin, "GET", mapsPath)
	ask(t, api, apitest.Admin, "GET", mapsPath+"/none")
	ask(t, api, apitest.Admin, "GET", mapsPath+"?watch=1&timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")
	_, text := ask(t, api, apitest.Admin, "GET", "/metrics")
	for _, want := range []string{
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="GET",version="v1"} 1`,
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 1`,
		`apiserver_request_duration_seconds_count{component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 0`,
		`apiserver_resource_objects{group="",resource="namespaces"} 4`,
		`apiserver_storage_objects{resource="clusterroles.rbac.authorization.k8s.io"}`,
		"process_resident_memory_bytes", "go_goroutines", `kubernetes_build_info{`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	series := func() int {
		_, text := ask(t, api, apitest.Admin, "GET", "/metrics")
		return len(regexp.MustCompile(`(?m)^apiserver_request_total`).FindAllString(text, -1))
	}
	ask(t, api, apitest.Admin, "GET", "/api/v1/nothing0")
	before := series()
	for i := range 20 {
		ask(t, api, apitest.Admin, "GET", fmt.Sprintf("/api/v1/nothing%d", i))
		ask(t, api, apitest.Admin, "GET", fmt.Sprintf("/apis/g%d/v1/x", i))
		ask(t, api, apitest.Admin, fmt.Sprintf("M%d", i), mapsPath)
	}
	if after := series(); after > before+3 {
		t.Errorf("odd requests made %d more series", after-before)
	}
}

func TestHealthPages(t *testing.T) {
	api := apitest.Start(t)
	for _, tc := range []struct {
		token, path string
		code        int
		text        string
	}{
		{"", "/livez", 200, "ok"},
		{"", "/readyz?verbose", 200, "[+]ping ok\n[+]shutdown ok\n[+]etcd ok\n[+]poststarthook/bootstrap ok\nreadyz check passed\n"},
		{"", "/readyz?verbose&exclude=etcd", 200, "[+]etcd excluded: ok\n"},
		{"", "/readyz?verbose&exclude=tides", 200, `warn: some health checks cannot be excluded: no matches for "tides"`},
		{apitest.Admin, "/readyz/etcd", 200, "ok"},
		{apitest.Admin, "/readyz/poststarthook/bootstrap", 200, "ok"},
		{apitest.Admin, "/readyz/tides", 404, "404 page not found"},
		{"", "/healthz", 200, "ok"},
		{"", "/version", 200, `"gitVersion"`},
		{"", "/metrics", 401, "Unauthorized"},
		{"", "/debug/pprof/", 401, "Unauthorized"},
		{apitest.Alice, "/debug/pprof/", 403, `User \"alice\" cannot get path \"/debug/pprof/\"`},
		{apitest.Admin, "/debug/pprof/", 200, "goroutine"},
		{apitest.Admin, "/debug/pprof/cmdline", 200, "apiserver.test"},
		{apitest.Admin, "/debug/pprof/heap?debug=1", 200, "heap profile"},
		{apitest.Admin, "/debug/other", 404, "404 page not found"},
	} {
		if code, text := ask(t, api, tc.token, "GET", tc.path); code != tc.code || !strings.Contains(text, tc.text) {
			t.Errorf("%s as %q: %d %q", tc.path, tc.token, code, text)
		}
	}
	api.Plane.Server.Drain()
	if code, text := ask(t, api, "", "GET", "/readyz"); code != 500 || !strings.Contains(text, "[-]shutdown failed: reason withheld\n") {
		t.Errorf("draining: %d %q", code, text)
	}
	if code, _ := ask(t, api, "", "GET", "/livez"); code != 200 {
		t.Errorf("draining server is not live: %d", code)
	}
}
