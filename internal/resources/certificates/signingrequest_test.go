package certificates

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/pki"
)

func validRequest(t *testing.T) *signingRequest {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	data, err := pki.NewSigningRequest(pki.Node("n1"), key, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &signingRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: data, SignerName: "example.com/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
	}}
}

func errorsOf(validate func(r *check.Report)) (texts []string) {
	r := check.NewReport()
	validate(r)
	for _, e := range r.Errors() {
		texts = append(texts, e.Error())
	}
	return texts
}

func TestSpec(t *testing.T) {
	seconds := func(n int32) *int32 { return &n }
	tests := map[string]struct {
		change func(s *certificatesv1.CertificateSigningRequestSpec)
		want   []string
	}{
		"valid":       {func(*certificatesv1.CertificateSigningRequestSpec) {}, nil},
		"ten minutes": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = seconds(600) }, nil},
		"too short": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = seconds(599) },
			[]string{"spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"}},
		"no usage": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = nil },
			[]string{"spec.usages: Required value: usages is required"}},
		"usage twice": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = append(s.Usages, s.Usages[0]) },
			[]string{`spec.usages[1]: Duplicate value: "client auth"`}},
		"no signer": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "" },
			[]string{"spec.signerName: Required value"}},
		"legacy": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "kubernetes.io/legacy-unknown" },
			[]string{`spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version`}},
		"no path": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example.com" },
			[]string{`spec.signerName: Invalid value: "example.com": must be a fully qualified domain and path of the form 'example.com/signer-name'`}},
		"short domain": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example/a" },
			[]string{`spec.signerName: Invalid value: "example": should be a domain with at least two segments separated by dots`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := validRequest(t)
			test.change(&c.Spec)
			if d := cmp.Diff(test.want, errorsOf(func(r *check.Report) { validateSigningRequest(r, c, nil) })); d != "" {
				t.Error(d)
			}
		})
	}
	c := validRequest(t)
	c.Spec.Request = []byte("no PEM")
	if got := errorsOf(func(r *check.Report) { validateSigningRequest(r, c, nil) }); len(got) != 1 {
		t.Errorf("errors %q", got)
	}
}

func condition(typ certificatesv1.RequestConditionType, status corev1.ConditionStatus) certificatesv1.CertificateSigningRequestCondition {
	return certificatesv1.CertificateSigningRequestCondition{Type: typ, Status: status}
}

func with(conditions ...certificatesv1.CertificateSigningRequestCondition) *signingRequest {
	return &signingRequest{Status: certificatesv1.CertificateSigningRequestStatus{Conditions: conditions}}
}

func TestConditionsThroughTheirViews(t *testing.T) {
	approved := condition(certificatesv1.CertificateApproved, corev1.ConditionTrue)
	denied := condition(certificatesv1.CertificateDenied, corev1.ConditionTrue)
	failed := condition(certificatesv1.CertificateFailed, corev1.ConditionTrue)
	tests := map[string]struct {
		view     func(r *check.Report, c, old *signingRequest)
		now, old *signingRequest
		want     []string
	}{
		"approve":            {validateApproval, with(approved), with(), nil},
		"approve by status":  {validateSigningRequestStatus, with(approved), with(), []string{`status.conditions: Forbidden: updates may not add a condition of type "Approved"`}},
		"approve by the way": {validateSigningRequest, with(approved), with(), []string{`status.conditions: Forbidden: updates may not add a condition of type "Approved"`}},
		"take back":          {validateApproval, with(), with(approved), []string{`status.conditions: Forbidden: updates may not remove a condition of type "Approved"`}},
		"both": {validateApproval, with(approved, denied), with(approved),
			[]string{`status.conditions[1].type: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive`}},
		"stored both": {validateApproval, with(approved, denied), with(approved, denied), nil},
		"twice":       {validateApproval, with(approved, approved), with(approved), []string{`status.conditions[1].type: Duplicate value: "Approved"`}},
		"fail":        {validateSigningRequestStatus, with(approved, failed), with(approved), nil},
		"not true": {validateApproval, with(condition(certificatesv1.CertificateApproved, corev1.ConditionFalse)), with(),
			[]string{`status.conditions[0].status: Unsupported value: "False": supported values: "True"`}},
		"no status": {validateApproval, with(condition("Seen", "")), with(), []string{"status.conditions[0].status: Required value"}},
		"no type":   {validateApproval, with(condition("", corev1.ConditionTrue)), with(), []string{"status.conditions[0].type: Required value"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(test.want, errorsOf(func(r *check.Report) { test.view(r, test.now, test.old) })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCertificate(t *testing.T) {
	ca, err := pki.NewAuthority("kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewAuthority("other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issued := func(data []byte) *signingRequest {
		c := with()
		c.Status.Certificate = data
		return c
	}
	tests := map[string]struct {
		now, old []byte
		want     []string
	}{
		"issue":   {ca.CertPEM, nil, nil},
		"keep":    {ca.CertPEM, ca.CertPEM, nil},
		"replace": {other.CertPEM, ca.CertPEM, []string{"status.certificate: Forbidden: updates may not modify existing certificate content"}},
		"a key": {ca.KeyPEM, nil,
			[]string{`status.certificate: Invalid value: "<certificate data>": only CERTIFICATE PEM blocks are allowed, found "EC PRIVATE KEY"`}},
		"nothing": {[]byte("signed"), nil,
			[]string{`status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := errorsOf(func(r *check.Report) { validateSigningRequestStatus(r, issued(test.now), issued(test.old)) })
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestTheServerSaysWhoAsks(t *testing.T) {
	user := &request.User{Name: "alice", UID: "1", Groups: []string{"team"}, Extra: map[string][]string{"k": {"v"}}}
	c := validRequest(t)
	c.Spec.Username, c.Spec.Groups = "system:node:n1", []string{"system:nodes"}
	SigningRequest.Prepare(request.WithUser(t.Context(), user), c, nil)
	want := certificatesv1.CertificateSigningRequestSpec{
		Request: c.Spec.Request, SignerName: c.Spec.SignerName, Usages: c.Spec.Usages,
		Username: "alice", UID: "1", Groups: []string{"team"}, Extra: map[string]certificatesv1.ExtraValue{"k": {"v"}},
	}
	if d := cmp.Diff(want, c.Spec); d != "" {
		t.Error(d)
	}
	changed := c.DeepCopy()
	changed.Spec.Username = "bob"
	SigningRequest.Prepare(t.Context(), changed, c)
	if d := cmp.Diff(want, changed.Spec); d != "" {
		t.Error(d)
	}
}

func TestStatusKeepsTheDecision(t *testing.T) {
	stamp := metav1.NewTime(time.Unix(1000, 0))
	approved := condition(certificatesv1.CertificateApproved, corev1.ConditionTrue)
	approved.Reason, approved.LastUpdateTime, approved.LastTransitionTime = "ByAlice", stamp, stamp
	old := with(approved)
	forged := approved
	forged.Reason = "ByMallory"
	now := with(forged, condition(certificatesv1.CertificateFailed, corev1.ConditionTrue))
	SigningRequest.Status.Prepare(t.Context(), now, old)
	if d := cmp.Diff(approved, now.Status.Conditions[0]); d != "" {
		t.Error(d)
	}
	if now.Status.Conditions[1].LastUpdateTime.IsZero() || now.Status.Conditions[1].LastTransitionTime.IsZero() {
		t.Errorf("no times in %+v", now.Status.Conditions[1])
	}
}

func TestPhase(t *testing.T) {
	is := func(types ...certificatesv1.RequestConditionType) *signingRequest {
		c := with()
		for _, typ := range types {
			c.Status.Conditions = append(c.Status.Conditions, condition(typ, corev1.ConditionTrue))
		}
		return c
	}
	issued := is(certificatesv1.CertificateApproved)
	issued.Status.Certificate = []byte("x")
	for want, c := range map[string]*signingRequest{
		"Pending": is(), "Approved": is(certificatesv1.CertificateApproved), "Denied": is(certificatesv1.CertificateDenied),
		"Approved,Failed": is(certificatesv1.CertificateApproved, certificatesv1.CertificateFailed), "Approved,Issued": issued,
	} {
		if got := phase(c); got != want {
			t.Errorf("phase %q, want %q", got, want)
		}
	}
}
