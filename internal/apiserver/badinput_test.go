package apiserver_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/testing/apitest"
)

// A bad request and the Status that it gets. Message is a part of the text.
type bad struct {
	name    string
	method  string // GET if empty
	path    string
	media   string // of the body, JSON if empty
	accept  string
	body    string
	header  map[string]string
	code    int
	reason  metav1.StatusReason
	message string
}

const (
	mapsPath = "/api/v1/namespaces/default/configmaps"
	pods     = "/api/v1/namespaces/default/pods"
	jsonType = "application/json"
	yamlType = "application/yaml"
	protoTyp = "application/vnd.kubernetes.protobuf"
	smpType  = "application/strategic-merge-patch+json"
	mergeTyp = "application/merge-patch+json"
	jsonPtch = "application/json-patch+json"
	applyTyp = "application/apply-patch+yaml"
)

func configMapBody(rest string) string {
	return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"}` + rest + `}`
}

func TestBadInput(t *testing.T) {
	api := apitest.Start(t)
	c := kubernetes.NewForConfigOrDie(api.Config(apitest.Admin))
	_, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "there"}, Data: map[string]string{"a": strings.Repeat("x", 1000)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := api.Store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := [][]bad{badBodies(), badKinds(), badOptions(), badPatches(), badPaths(), badMedia(), badDeletes()}
	count := 0
	for _, group := range all {
		for _, tc := range group {
			count++
			t.Run(tc.name, func(t *testing.T) { tc.check(t, api) })
		}
	}
	if count < 100 {
		t.Errorf("only %d malformed requests", count)
	}
	after, err := api.Store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("the store went from revision %d to %d", before, after)
	}
}

// maxAllocated bounds what the server and the test may allocate for one
// malformed request of at most 3 MiB.
const maxAllocated = 200 << 20

func (tc bad) check(t *testing.T, api *apitest.API) {
	method := tc.method
	if method == "" {
		method = http.MethodGet
	}
	// The path goes out as it stands: no client may tidy it up.
	req, err := http.NewRequestWithContext(t.Context(), method, api.HTTP.URL, strings.NewReader(tc.body))
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(tc.path, "?")
	req.URL.Opaque, req.URL.RawQuery = "//"+req.URL.Host+path, query
	req.Header.Set("Authorization", "Bearer "+apitest.Admin)
	if tc.body != "" {
		req.Header.Set("Content-Type", jsonType)
	}
	if tc.media != "" {
		req.Header.Set("Content-Type", tc.media)
	}
	if tc.accept != "" {
		req.Header.Set("Accept", tc.accept)
	}
	for k, v := range tc.header {
		req.Header.Set(k, v)
	}
	var was, is runtime.MemStats
	runtime.ReadMemStats(&was)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&is)
	if n := is.TotalAlloc - was.TotalAlloc; n > maxAllocated {
		t.Errorf("took %d MiB", n>>20)
	}
	tc.compare(t, resp.StatusCode, data)
}

func (tc bad) compare(t *testing.T, code int, data []byte) {
	t.Helper()
	var status metav1.Status
	if err := yaml.Unmarshal(data, &status); err != nil || status.Kind != "Status" {
		status.Message = string(data)
	}
	short := status.Message[:min(len(status.Message), 500)]
	if code != tc.code || status.Reason != tc.reason || !strings.Contains(status.Message, tc.message) {
		t.Errorf("got %d %q %q\nwant %d %q %q", code, status.Reason, short, tc.code, tc.reason, tc.message)
	}
	if status.Kind == "Status" && (status.Code != int32(code) || status.Status != metav1.StatusFailure || status.Message == "") {
		t.Errorf("incomplete status: %+v", status)
	}
}

// The reasons, short for the tables.
const (
	badRequest  = metav1.StatusReasonBadRequest
	invalid     = metav1.StatusReasonInvalid
	notFound    = metav1.StatusReasonNotFound
	noMethod    = metav1.StatusReasonMethodNotAllowed
	tooLarge    = metav1.StatusReasonRequestEntityTooLarge
	unsupported = metav1.StatusReasonUnsupportedMediaType
	unacceptble = metav1.StatusReasonNotAcceptable
)

func badBodies() []bad {
	post := func(name, media, body string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: name, method: "POST", path: mapsPath, media: media, body: body, code: code, reason: reason, message: message}
	}
	strict := func(name, media, body, message string) bad {
		return bad{name: name, method: "POST", path: mapsPath + "?fieldValidation=Strict", media: media, body: body, code: 400, reason: badRequest,
			message: `ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: ` + message}
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(configMapBody(""))) // a buffer takes all
	z.Close()
	whole, err := scheme.EncodeProtobuf(&corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"a": "b"},
	})
	if err != nil {
		panic(err)
	}
	unrecognized := "the object provided is unrecognized (must be of type ConfigMap): "
	return []bad{
		post("empty", jsonType, "", 400, badRequest, unrecognized+"couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"),
		post("truncated", jsonType, `{"apiVersion":"v1","kind":"Conf`, 400, badRequest, unrecognized+`couldn't get version/kind; json parse error: unexpected end of JSON input ({"apiVersion":"v1","kind":"Con ...)`),
		post("no JSON", jsonType, "hello", 400, badRequest, "json parse error: invalid character 'h' looking for beginning of value (68656c6c6f)"),
		post("array", jsonType, "[]", 400, badRequest, unrecognized),
		post("null", jsonType, "null", 422, invalid, "name or generateName is required"),
		post("trailing data", jsonType, configMapBody("")+"{}", 400, badRequest, "invalid character '{' after top-level value"),
		post("oversized by one", jsonType, configMapBody(`,"data":{"a":"`)+strings.Repeat("x", 3<<20), 413, tooLarge, "Request entity too large: limit is 3145728"),
		post("oversized value", jsonType, configMapBody(`,"data":{"a":"`+strings.Repeat("x", 2<<20)+`"}`), 422, invalid, "Too long"),
		post("deep arrays", jsonType, configMapBody(`,"data":`+strings.Repeat("[", 100000)+strings.Repeat("]", 100000)), 400, badRequest, "exceeded max depth"),
		post("deep objects", jsonType, configMapBody(`,"x":`+strings.Repeat(`{"a":`, 100000)+"1"+strings.Repeat("}", 100000)), 400, badRequest, "exceeded max depth"),
		post("deep YAML", yamlType, "a: "+strings.Repeat("[", 100000), 400, badRequest, "exceeded max depth"),
		post("YAML bomb", yamlType, yamlBomb(), 400, badRequest, "excessive aliasing"),
		post("YAML alias to itself", yamlType, "kind: ConfigMap\napiVersion: v1\ndata: &a\n  b: *a\n", 400, badRequest, "contains itself"),
		post("YAML syntax", yamlType, "a: [b", 400, badRequest, "yaml: line 1"),
		post("YAML tabs", yamlType, "a:\n\tb: c\n", 400, badRequest, "found character that cannot start any token"),
		post("YAML not a number", yamlType, "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: m\n  generation: .nan\n", 400, badRequest, ""),
		post("NaN", jsonType, configMapBody(`,"immutable":NaN`), 400, badRequest, "invalid character 'N'"),
		post("huge number", jsonType, `{"metadata":{"name":"m","generation":1e400}}`, 400, badRequest, "cannot unmarshal"),
		post("fraction", jsonType, `{"metadata":{"name":"m","generation":1.5}}`, 400, badRequest, "cannot unmarshal number 1.5"),
		post("number too large", jsonType, `{"metadata":{"name":"m","generation":99999999999999999999}}`, 400, badRequest, "cannot unmarshal number"),
		post("wrong type", jsonType, configMapBody(`,"data":["a"]`), 400, badRequest, `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal array`),
		post("wrong type inside", jsonType, configMapBody(`,"data":{"a":1}`), 400, badRequest, "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
		post("bad base64", jsonType, configMapBody(`,"binaryData":{"a":"?"}`), 400, badRequest, "illegal base64 data"),
		post("bad time", jsonType, `{"metadata":{"name":"m","creationTimestamp":"yesterday"}}`, 400, badRequest, `parsing time "yesterday"`),
		post("invalid UTF-8 in name", jsonType, `{"metadata":{"name":"a`+"\xff"+`b"}}`, 422, invalid, "a lowercase RFC 1123 subdomain must consist of"),
		post("NUL in name", jsonType, `{"metadata":{"name":"a\u0000b"}}`, 422, invalid, "a lowercase RFC 1123 subdomain must consist of"),
		post("raw NUL", jsonType, "{\"metadata\":{\"name\":\"a\x00b\"}}", 400, badRequest, `invalid character '\x00' in string literal`),
		post("no name", jsonType, `{}`, 422, invalid, `ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required`),
		post("slash in name", jsonType, `{"metadata":{"name":"a/b"}}`, 422, invalid, `metadata.name: Invalid value: "a/b"`),
		post("dots as name", jsonType, `{"metadata":{"name":".."}}`, 422, invalid, `metadata.name: Invalid value: ".."`),
		post("long name", jsonType, `{"metadata":{"name":"`+strings.Repeat("a", 254)+`"}}`, 422, invalid, "must be no more than 253"),
		post("bad label", jsonType, `{"metadata":{"name":"m","labels":{"a b":"c"}}}`, 422, invalid, `metadata.labels: Invalid value: "a b"`),
		post("huge annotation", jsonType, `{"metadata":{"name":"m","annotations":{"a":"`+strings.Repeat("x", 257<<10)+`"}}}`, 422, invalid, "metadata.annotations: Too long"),
		post("bad key", jsonType, configMapBody(`,"data":{"a/b":"c"}`), 422, invalid, "data[a/b]: Invalid value"),
		post("resourceVersion on create", jsonType, `{"metadata":{"name":"m","resourceVersion":"7"}}`, 400, badRequest, "resourceVersion should not be set on objects to be created"),
		post("exists", jsonType, `{"metadata":{"name":"there"}}`, 409, metav1.StatusReasonAlreadyExists, `configmaps "there" already exists`),
		post("gzip", jsonType, zipped.String(), 400, badRequest, "invalid character"),
		post("protobuf without mark", protoTyp, string(whole[1:]), 400, badRequest, "unrecognized"),
		post("protobuf truncated", protoTyp, string(whole[:len(whole)-3]), 400, badRequest, "unexpected EOF"),
		post("protobuf of nothing", protoTyp, "", 400, badRequest, "(<empty>)"),
		post("protobuf with JSON inside", protoTyp, "k8s\x00"+configMapBody(""), 400, badRequest, "unrecognized"),
		post("protobuf lengths that lie", protoTyp, "k8s\x00\x0a\xff\xff\xff\xff\x7f", 400, badRequest, "unrecognized"),
		post("protobuf groups in groups", protoTyp, string(scheme.Envelope(corev1.SchemeGroupVersion.WithKind("ConfigMap"), 1<<20))+strings.Repeat("\x7b", 1<<20), 400, badRequest, "cannot be handled"),
		strict("unknown field", jsonType, configMapBody(`,"foo":1`), `unknown field "foo"`),
		strict("unknown field in metadata", jsonType, `{"metadata":{"name":"m","foo":1}}`, `unknown field "metadata.foo"`),
		strict("doubled field", jsonType, configMapBody(`,"data":{"a":"b"},"data":{"a":"c"}`), `duplicate field "data"`),
		strict("two faults", jsonType, configMapBody(`,"foo":1,"bar":2`), `unknown field "foo", unknown field "bar"`),
		strict("field in other case", jsonType, configMapBody(`,"Data":{}`), `unknown field "Data"`),
		strict("doubled YAML key", yamlType, "metadata:\n  name: m\n  name: o\n", `yaml: unmarshal errors:`),
		strict("unknown YAML field", yamlType, "metadata: {name: m}\nfoo: 1\n", `unknown field "foo"`),
	}
}

// yamlBomb is ten levels of lists, each ten times the one before.
func yamlBomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	return b.String()
}

func badKinds() []bad {
	post := func(name, path, body string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: name, method: "POST", path: path, body: body, code: code, reason: reason, message: message}
	}
	put := func(name, path, body string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: name, method: "PUT", path: path, body: body, code: code, reason: reason, message: message}
	}
	return []bad{
		post("other kind", pods, configMapBody(""), 400, badRequest, `ConfigMap in version "v1" cannot be handled as a Pod: converting (v1.ConfigMap) to (core.Pod): unknown conversion`),
		post("other group", pods, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"m"}}`, 400, badRequest, `Deployment in version "v1" cannot be handled as a Pod`),
		post("kind that is none", mapsPath, `{"apiVersion":"v1","kind":"Foo","metadata":{"name":"m"}}`, 400, badRequest, `Foo in version "v1" cannot be handled as a ConfigMap: no kind "Foo" is registered for version "v1"`),
		post("version that is none", mapsPath, `{"apiVersion":"v7","kind":"ConfigMap","metadata":{"name":"m"}}`, 400, badRequest, `no kind "ConfigMap" is registered for version "v7"`),
		post("version with slashes", mapsPath, `{"apiVersion":"a/b/c","kind":"ConfigMap"}`, 400, badRequest, ""),
		post("other version", "/apis/apps/v1/namespaces/default/deployments", `{"apiVersion":"apps/v1beta1","kind":"Deployment","metadata":{"name":"m"}}`, 400, badRequest,
			"the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"),
		post("a list", mapsPath, `{"apiVersion":"v1","kind":"ConfigMapList","items":[]}`, 400, badRequest, "unknown conversion"),
		post("other namespace", mapsPath, `{"metadata":{"name":"m","namespace":"kube-system"}}`, 400, badRequest, "the namespace of the provided object does not match the namespace sent on the request"),
		post("namespace that is none", "/api/v1/namespaces/nowhere/configmaps", `{"metadata":{"name":"m"}}`, 404, notFound, `namespaces "nowhere" not found`),
		put("other name", mapsPath+"/there", `{"metadata":{"name":"here"}}`, 400, badRequest, "the name of the object (here) does not match the name on the URL (there)"),
		put("without name", mapsPath+"/there", `{"metadata":{}}`, 400, badRequest, "the name of the object (there based on URL) was undeterminable: name must be provided"),
		put("of another namespace", mapsPath+"/there", `{"metadata":{"name":"there","namespace":"x"}}`, 400, badRequest, "does not match the namespace sent on the request"),
		put("absent", mapsPath+"/absent", `{"metadata":{"name":"absent"}}`, 404, notFound, `configmaps "absent" not found`),
		put("old version", mapsPath+"/there", `{"metadata":{"name":"there","resourceVersion":"1"}}`, 409, metav1.StatusReasonConflict,
			`Operation cannot be fulfilled on configmaps "there": the object has been modified; please apply your changes to the latest version and try again`),
		put("other uid", mapsPath+"/there", `{"metadata":{"name":"there","uid":"no"}}`, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: no, UID in object meta: "),
		put("version that is no number", mapsPath+"/there", `{"metadata":{"name":"there","resourceVersion":"x"}}`, 400, badRequest, `resourceVersion: Invalid value: "x"`),
		post("review without attributes", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{}}`, 422, invalid, "spec.resourceAttributes"),
		put("scale below zero", "/apis/apps/v1/namespaces/default/deployments/none/scale", `{"metadata":{"name":"none"},"spec":{"replicas":-1}}`, 404, notFound, `deployments.apps "none" not found`),
		put("scale of another", "/apis/apps/v1/namespaces/default/deployments/none/scale", `{"metadata":{"name":"some"}}`, 400, badRequest, "does not match the name on the URL"),
	}
}

func badOptions() []bad {
	get := func(name, path string, code int, reason metav1.StatusReason, message string) bad {
		return bad{name: name, path: path, code: code, reason: reason, message: message}
	}
	token := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	create := func(name, query, message string) bad {
		return bad{name: name, method: "POST", path: mapsPath + "?" + query, body: configMapBody(""), code: 422, reason: invalid, message: message}
	}
	return []bad{
		get("label selector", mapsPath+"?labelSelector=a===b", 400, badRequest, "unable to parse requirement: found '='"),
		get("label selector value", mapsPath+"?labelSelector=a=b%20c", 400, badRequest, "found 'c', expected: ',' or 'end of string'"),
		get("field selector", mapsPath+"?fieldSelector=a", 400, badRequest, "invalid selector: 'a'; can't understand 'a'"),
		get("field that is none", mapsPath+"?fieldSelector=data.a%3Db", 400, badRequest, `"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"`),
		get("field of pods that is none", pods+"?fieldSelector=spec.foo%3Db", 400, badRequest, "field label not supported: spec.foo"),
		get("resourceVersion", mapsPath+"?resourceVersion=abc", 400, badRequest, `resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid syntax`),
		get("resourceVersion below zero", mapsPath+"?resourceVersion=-1", 400, badRequest, "invalid syntax"),
		get("resourceVersion of a get", mapsPath+"/there?resourceVersion=x", 400, badRequest, `Invalid value: "x"`),
		get("match without version", mapsPath+"?resourceVersionMatch=Exact", 422, invalid, "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"),
		get("match that is none", mapsPath+"?resourceVersion=1&resourceVersionMatch=Maybe", 422, invalid, "resourceVersionMatch: Unsupported value"),
		get("exact zero", mapsPath+"?resourceVersion=0&resourceVersionMatch=Exact", 422, invalid, `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`),
		get("limit", mapsPath+"?limit=many", 400, badRequest, `strconv.ParseInt: parsing "many": invalid syntax`),
		get("limit too large", mapsPath+"?limit=99999999999999999999", 400, badRequest, "value out of range"),
		get("timeout", mapsPath+"?watch=1&timeoutSeconds=x", 400, badRequest, "invalid syntax"),
		get("continue", mapsPath+"?continue=%21", 400, badRequest, "invalid continue token: continue key is not valid: "),
		get("continue without JSON", mapsPath+"?continue="+token("x"), 400, badRequest, "continue key is not valid"),
		get("continue of another version", mapsPath+"?continue="+token(`{"v":"v0","rv":1,"start":"a"}`), 400, badRequest, `server does not recognize this encoded version "v0"`),
		get("continue without revision", mapsPath+"?continue="+token(`{"v":"meta.k8s.io/v1","start":"a"}`), 400, badRequest, "incorrect encoded start resourceVersion"),
		get("continue into another place", mapsPath+"?continue="+token(`{"v":"meta.k8s.io/v1","rv":1,"start":"../../secrets/a"}`), 400, badRequest, "continue key is not valid"),
		get("continue with version", mapsPath+"?resourceVersion=5&continue="+token(`{"v":"meta.k8s.io/v1","rv":1,"start":"a\u0000"}`), 400, badRequest, "specifying resource version is not allowed when using continue"),
		get("initial events without watch", mapsPath+"?sendInitialEvents=true", 422, invalid, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
		get("initial events without match", mapsPath+"?watch=1&sendInitialEvents=true", 422, invalid, "resourceVersionMatch"),
		get("watch from no number", mapsPath+"?watch=1&resourceVersion=x", 422, invalid, `resourceVersion: Invalid value: "x"`),
		create("dryRun", "dryRun=Some", `CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All"`),
		create("fieldManager", "fieldManager="+strings.Repeat("a", 129), "fieldManager: Too long: may not be more than 128 bytes"),
		create("fieldManager unprintable", "fieldManager=%01", "fieldManager: Invalid value"),
		create("fieldValidation", "fieldValidation=Never", `fieldValidation: Unsupported value: "Never"`),
	}
}
