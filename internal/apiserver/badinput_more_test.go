package apiserver_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff.dev/skiff/internal/testing/apitest"
)

func badPatches() []bad {
	patch := func(name, media, body string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: "patch: " + name, method: "PATCH", path: mapsPath + "/there", media: media, body: body, code: code, reason: reason, message: message}
	}
	apply := func(name, query, body string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: "apply: " + name, method: "PATCH", path: mapsPath + "/there?" + query, media: applyTyp, body: body, code: code, reason: reason, message: message}
	}
	const head = "apiVersion: v1\nkind: ConfigMap\n"
	rejected := "the server rejected our request due to an error in our request"
	many := "[" + strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/kind","value":"ConfigMap"},`, 10001), ",") + "]"
	copies := `[{"op":"add","path":"/data/x","value":"` + strings.Repeat("x", 100<<10) + `"}` +
		strings.Repeat(`,{"op":"copy","from":"/data","path":"/data/a"}`, 40) + "]"
	return []bad{
		patch("10,001 operations", jsonPtch, many, 413, tooLarge, "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"),
		patch("copies of copies", jsonPtch, copies, 413, tooLarge, "Unable to complete the copy, the accumulated size increase of copy is"),
		patch("no JSON", jsonPtch, `[{`, 400, badRequest, "unexpected end of JSON input"),
		patch("no list", jsonPtch, `{}`, 400, badRequest, "cannot unmarshal object into Go value of type jsonpatch.Patch"),
		patch("unknown operation", jsonPtch, `[{"op":"shake","path":"/data"}]`, 422, invalid, rejected),
		patch("path that is none", jsonPtch, `[{"op":"remove","path":"/data/none"}]`, 422, invalid, rejected),
		patch("failed test", jsonPtch, `[{"op":"test","path":"/kind","value":"x"}]`, 422, invalid, rejected),
		patch("index far away", jsonPtch, `[{"op":"add","path":"/metadata/finalizers","value":[]},{"op":"add","path":"/metadata/finalizers/999999999","value":"a/b"}]`, 422, invalid, rejected),
		patch("no object", mergeTyp, `[1]`, 400, badRequest, "error decoding patch: json: cannot unmarshal array"),
		patch("truncated", mergeTyp, `{"data":`, 400, badRequest, "error decoding patch: unexpected end of JSON input"),
		patch("empty", mergeTyp, ``, 400, badRequest, "error decoding patch: "),
		patch("wrong type", mergeTyp, `{"data":7}`, 422, invalid, `patch: Invalid value: "{`),
		patch("other kind", mergeTyp, `{"kind":"Secret"}`, 422, invalid, "unknown conversion"),
		patch("rename", mergeTyp, `{"metadata":{"name":"else"}}`, 400, badRequest, "the name of the object (else) does not match the name on the URL (there)"),
		patch("move", mergeTyp, `{"metadata":{"namespace":"kube-system"}}`, 400, badRequest, "the namespace of the object (kube-system) does not match the namespace on the request (default)"),
		patch("old version", mergeTyp, `{"metadata":{"resourceVersion":"1"}}`, 409, metav1.StatusReasonConflict, "the object has been modified"),
		patch("deep", mergeTyp, strings.Repeat(`{"a":`, 100000)+"1"+strings.Repeat("}", 100000), 400, badRequest, "exceeded max depth"),
		patch("strategic directive", smpType, `{"data":{"$patch":"explode"}}`, 422, invalid, rejected),
		patch("strategic without object", smpType, `"x"`, 400, badRequest, "error decoding patch"),
		{name: "patch: strict", method: "PATCH", path: mapsPath + "/there?fieldValidation=Strict", media: mergeTyp, body: `{"foo":1}`, code: 422, reason: invalid,
			message: `strict decoding error: unknown field "foo"`},
		{name: "patch: absent", method: "PATCH", path: mapsPath + "/absent", media: mergeTyp, body: `{}`, code: 404, reason: notFound, message: `configmaps "absent" not found`},
		{name: "patch: force", method: "PATCH", path: mapsPath + "/there?force=true", media: mergeTyp, body: `{}`, code: 422, reason: invalid,
			message: `PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch`},
		{name: "patch: oversized", method: "PATCH", path: mapsPath + "/there", media: mergeTyp, body: `{"data":{"a":"` + strings.Repeat("x", 3<<20), code: 413, reason: tooLarge, message: "limit is 3145728"},
		patch("plain JSON", jsonType, `{}`, 415, unsupported, "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"),
		apply("no manager", "", head, 422, invalid, `PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch`),
		apply("no YAML", "fieldManager=a", "a: [", 400, badRequest, "error decoding YAML"),
		apply("no object", "fieldManager=a", "- a", 400, badRequest, "error decoding YAML"),
		apply("null", "fieldManager=a", "null", 400, badRequest, "error decoding YAML"),
		apply("no kind", "fieldManager=a", "data: {}", 400, badRequest, "must say apiVersion and kind"),
		apply("other version", "fieldManager=a", "apiVersion: v2\nkind: ConfigMap\n", 400, badRequest, "invalid object type: /v2, Kind=ConfigMap"),
		apply("other kind", "fieldManager=a", "apiVersion: v1\nkind: Secret\n", 400, badRequest, ""),
		apply("other name", "fieldManager=a", head+"metadata: {name: else}\n", 400, badRequest, "the name of the object (else) does not match"),
		apply("other namespace", "fieldManager=a", head+"metadata: {namespace: else}\n", 400, badRequest, "the namespace of the object (else) does not match"),
		apply("unknown field", "fieldManager=a", head+"foo: 1\n", 400, badRequest, ".foo: field not declared in schema"),
		apply("unknown field, strict", "fieldManager=a&fieldValidation=Strict", head+"foo: 1\n", 400, badRequest, `unknown field "foo"`),
		apply("managed fields", "fieldManager=a", head+"metadata: {managedFields: [{manager: x}]}\n", 400, badRequest, "metadata.managedFields must be nil"),
		apply("bomb", "fieldManager=a", yamlBomb(), 400, badRequest, "excessive aliasing"),
	}
}

func badPaths() []bad {
	do := func(name, method, path string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: name, method: method, path: path, code: code, reason: reason, message: message}
	}
	const (
		none  = "the server could not find the requested resource"
		other = "the server does not allow this method on the requested resource"
		page  = "404 page not found"
	)
	return []bad{
		do("resource that is none", "GET", "/api/v1/namespaces/default/foos", 404, notFound, none),
		do("group that is none", "GET", "/apis/foo.io/v1/bars", 404, "", page),
		do("version that is none", "GET", "/api/v7/pods", 404, "", page),
		do("page that is none", "GET", "/foo/bar", 404, "", page),
		do("subresource that is none", "GET", mapsPath+"/there/foo", 404, notFound, none),
		do("subresource of another kind", "PUT", mapsPath+"/there/scale", 404, notFound, none),
		do("path beyond a subresource", "GET", "/api/v1/namespaces/default/pods/p/status/more", 404, notFound, none),
		do("cluster-scoped in a namespace", "GET", "/api/v1/namespaces/default/nodes/n", 404, notFound, none),
		do("list of cluster-scoped in a namespace", "GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles", 404, notFound, none),
		do("one without its namespace", "GET", "/api/v1/configmaps/there", 404, notFound, none),
		do("delete without its namespace", "DELETE", "/api/v1/configmaps/there", 404, notFound, none),
		do("create without a namespace", "POST", "/api/v1/configmaps", 405, noMethod, other),
		do("delete everywhere", "DELETE", "/api/v1/configmaps", 405, noMethod, other),
		do("create on one", "POST", mapsPath+"/there", 405, noMethod, other),
		do("replace a collection", "PUT", mapsPath, 405, noMethod, other),
		do("patch a collection", "PATCH", mapsPath, 405, noMethod, other),
		do("method that is none", "BREW", mapsPath, 405, noMethod, other),
		do("OPTIONS", "OPTIONS", mapsPath, 405, noMethod, other),
		do("TRACE", "TRACE", mapsPath, 405, noMethod, other),
		do("list reviews", "GET", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 405, noMethod, other),
		do("delete a status", "DELETE", "/api/v1/namespaces/default/pods/p/status", 405, noMethod, other),
		do("get a binding", "GET", "/api/v1/namespaces/default/pods/p/binding", 405, noMethod, other),
		do("put exec", "PUT", "/api/v1/namespaces/default/pods/p/exec", 405, noMethod, other),
		do("dots", "GET", "/api/v1/namespaces/default/configmaps/../secrets", 400, badRequest, "not in its simplest form"),
		do("dots at the end", "GET", mapsPath+"/..", 400, badRequest, "not in its simplest form"),
		do("dots before proxy", "GET", "/api/v1/namespaces/default/../kube-system/pods/p/proxy/x", 400, badRequest, "not in its simplest form"),
		do("doubled slash", "GET", "/api/v1/namespaces/default//configmaps", 400, badRequest, "not in its simplest form"),
		do("escaped dots", "GET", mapsPath+"/%2e%2e", 400, badRequest, "not in its simplest form"),
		do("escaped slash", "GET", mapsPath+"/there%2fstatus", 404, notFound, none),
		do("escaped percent", "GET", mapsPath+"/a%25b", 400, badRequest, `Name parameter invalid: "a%b": may not contain '%'`),
		do("NUL in the path", "GET", mapsPath+"/a%00b", 404, notFound, "not found"),
		do("other case", "GET", "/api/v1/namespaces/default/ConfigMaps", 404, notFound, none),
		do("exec in a pod that is none", "GET", pods+"/p/exec?command=ls", 404, notFound, `pods "p" not found`),
		do("post to a page", "POST", "/version", 405, noMethod, other),
		do("log with a bad number", "GET", pods+"/p/log?tailLines=x", 400, badRequest, "invalid syntax"),
	}
}

func badMedia() []bad {
	return []bad{
		{name: "text", method: "POST", path: mapsPath, media: "text/plain", body: configMapBody(""), code: 415, reason: unsupported,
			message: "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "form", method: "POST", path: mapsPath, media: "application/x-www-form-urlencoded", body: "a=b", code: 415, reason: unsupported},
		{name: "no media type", method: "POST", path: mapsPath, media: ";;;", body: configMapBody(""), code: 415, reason: unsupported},
		{name: "protobuf that is JSON", method: "POST", path: mapsPath, media: protoTyp, body: configMapBody(""), code: 400, reason: badRequest, message: "unrecognized"},
		{name: "JSON that is YAML", method: "POST", path: mapsPath, body: "metadata: {name: m}", code: 400, reason: badRequest, message: "json parse error"},
		{name: "accept text", path: mapsPath, accept: "text/html", code: 406, reason: unacceptble,
			message: "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "accept nothing that is", method: "POST", path: mapsPath, accept: "image/png", body: configMapBody(""), code: 406, reason: unacceptble},
		{name: "accept unknown form", path: mapsPath, accept: "application/json;as=Poem;g=meta.k8s.io;v=v1", code: 406, reason: unacceptble},
		{name: "accept with no weight", path: mapsPath, accept: "application/json;q=0", code: 406, reason: unacceptble},
		{name: "watch as YAML", path: mapsPath + "?watch=1", accept: yamlType, code: 406, reason: unacceptble},
		{name: "table with all", path: mapsPath + "?includeObject=All", accept: "application/json;as=Table;g=meta.k8s.io;v=v1", code: 422, reason: invalid,
			message: `TableOptions.meta.k8s.io "" is invalid: includeObject: Invalid value: "All": must be 'Metadata', 'Object', 'None', or empty`},
		{name: "wrong token", path: mapsPath, header: map[string]string{"Authorization": "Bearer nobody"}, code: 401, reason: metav1.StatusReasonUnauthorized, message: "Unauthorized"},
		{name: "other scheme", path: mapsPath, header: map[string]string{"Authorization": "Basic YTpi"}, code: 401, reason: metav1.StatusReasonUnauthorized, message: "Unauthorized"},
		{name: "no rights", path: mapsPath, header: map[string]string{"Authorization": "Bearer " + apitest.Alice}, code: 403, reason: metav1.StatusReasonForbidden,
			message: `configmaps is forbidden: User "alice" cannot list resource "configmaps" in API group "" in the namespace "default"`},
	}
}

func badDeletes() []bad {
	del := func(name, path, body string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: "delete: " + name, method: "DELETE", path: path, body: body, code: code, reason: reason, message: message}
	}
	there := mapsPath + "/there"
	return []bad{
		del("absent", mapsPath+"/absent", "", 404, notFound, `configmaps "absent" not found`),
		del("policy", there, `{"propagationPolicy":"Sideways"}`, 422, invalid, `propagationPolicy: Unsupported value: "Sideways"`),
		del("policy in the query", there+"?propagationPolicy=Sideways", "", 422, invalid, `propagationPolicy: Unsupported value: "Sideways"`),
		del("two policies", there, `{"propagationPolicy":"Orphan","orphanDependents":true}`, 422, invalid, "orphanDependents and deletionPropagation cannot be both set"),
		del("dry run", there, `{"dryRun":["Some"]}`, 422, invalid, `dryRun: Unsupported value: ["Some"]`),
		del("grace", there+"?gracePeriodSeconds=long", "", 400, badRequest, "invalid syntax"),
		del("other kind", there, configMapBody(""), 400, badRequest, "DeleteOptions"),
		del("no JSON", there, "{", 400, badRequest, "unexpected end of JSON input"),
		del("uid", there, `{"preconditions":{"uid":"no"}}`, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: no, UID in object meta: "),
		del("version", there, `{"preconditions":{"resourceVersion":"1"}}`, 409, metav1.StatusReasonConflict, "Precondition failed: ResourceVersion in precondition: 1, ResourceVersion in object meta: "),
		del("collection by a bad selector", mapsPath+"?labelSelector=a===b", "", 400, badRequest, "unable to parse requirement"),
	}
}

// TestLenientInput: what is odd but allowed is taken, with warnings.
func TestLenientInput(t *testing.T) {
	api := apitest.Start(t)
	for _, tc := range []struct {
		query, body string
		warnings    []string
	}{
		{"", configMapBody(`,"foo":1`), []string{`299 - "unknown field \"foo\""`}},
		{"&fieldValidation=Warn", configMapBody(`,"data":{},"data":{}`), []string{`299 - "duplicate field \"data\""`}},
		{"&fieldValidation=Ignore", configMapBody(`,"foo":1`), nil},
		{"", `{"metadata":{"name":"m"}}`, nil},
	} {
		req, err := http.NewRequest("POST", api.HTTP.URL+mapsPath+"?dryRun=All"+tc.query, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+apitest.Admin)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header["Warning"]; resp.StatusCode != 201 || fmt.Sprint(got) != fmt.Sprint(tc.warnings) {
			t.Errorf("%s: %d, warnings %q, want %q", tc.body, resp.StatusCode, got, tc.warnings)
		}
	}
	if keys := storedKeys(t, api, "/registry/configmaps/default/m"); len(keys) > 0 {
		t.Errorf("a dry run stored %v", keys)
	}
}

// TestExecByGetNeedsCreate: a WebSocket has to come by GET, but runs a command
// all the same.
func TestExecByGetNeedsCreate(t *testing.T) {
	api := apitest.Start(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin))
	ctx := t.Context()
	_, err := c.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"*"}},
	}}, metav1.CreateOptions{})
	if err == nil {
		_, err = c.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "alice"}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	alice := map[string]string{"Authorization": "Bearer " + apitest.Alice}
	for _, sub := range []string{"exec", "attach", "portforward"} {
		bad{path: pods + "/p/" + sub, header: alice, code: 403, reason: metav1.StatusReasonForbidden,
			message: fmt.Sprintf(`cannot create resource "pods/%s"`, sub)}.check(t, api)
	}
	bad{path: pods + "/p/log", header: alice, code: 404, reason: notFound, message: `pods "p" not found`}.check(t, api)
}

// TestHeadersAreBounded: a client can neither send headers without end nor
// keep a connection by sending them slowly.
func TestHeadersAreBounded(t *testing.T) {
	api := apitest.Start(t)
	conn, err := net.Dial("tcp", api.HTTP.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _ = conn.Write([]byte("GET /version HTTP/1.1\r\nHost: x\r\nA: ")) // the server may have hung up
		_, _ = conn.Write(bytes.Repeat([]byte("x"), 2<<20))
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("huge header: %v %v", resp, err)
	}
	if s := api.HTTP.Config; s.ReadHeaderTimeout == 0 || s.ReadHeaderTimeout > time.Minute || s.IdleTimeout == 0 {
		t.Errorf("slow headers are waited for %v, idle connections kept %v", s.ReadHeaderTimeout, s.IdleTimeout)
	}
}
