package robustness

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestClockJumps sets the machine's clock by an hour and by a year, forth and
// back, under a running server (I37). It must stay ready, take writes, refuse
// tokens that are over and issue new ones; after a year it may have to be
// started anew for the administrator's certificate, and for nothing else. The
// machine must be one that is there for this: make e2e-v2.
func TestClockJumps(t *testing.T) {
	if os.Getenv("SKIFF_MAY_SET_CLOCK") == "" {
		t.Skip("SKIPPED: this sets the machine's clock; make e2e-v2 does it in a virtual machine")
	}
	began, wall := time.Now(), time.Now().Round(0)
	t.Cleanup(func() { setClock(t, wall.Add(time.Since(began))) })
	s := newServer(t)
	s.start()
	s.ready(slowStart())
	s.works("before")
	hour := time.Hour + 2*time.Minute // longer than a token for an hour is good for, clocks being what they are
	for _, jump := range []time.Duration{hour, -2 * hour, year + hour, -2 * year, year} {
		token := s.token()
		setClock(t, time.Now().Round(0).Add(jump))
		s.ready(slowStart())
		if jump > year-time.Hour || jump < -year { // for the administrator's certificate
			s.kill()
			s.start()
			s.ready(slowStart())
		}
		s.works(fmt.Sprint("after a jump by ", jump))
		if err := s.use(token); jump >= time.Hour && !apierrors.IsUnauthorized(err) {
			t.Errorf("%v later a token for an hour is answered with: %v", jump, err)
		}
	}
}

// slowStart is startup on a machine that is emulated: so many times longer.
func slowStart() time.Duration {
	if times, err := strconv.Atoi(os.Getenv("SKIFF_E2E_SLOW")); err == nil && times > 1 {
		return time.Duration(times) * startup
	}
	return startup
}

const year = 365 * 24 * time.Hour

func setClock(t testing.TB, to time.Time) {
	t.Helper()
	now := unix.NsecToTimespec(to.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		t.Fatal(err)
	}
}

// works checks that the administrator can write and what is written stays, and
// that a token that is issued is good.
func (s *server) works(when string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), slowStart())
	defer cancel()
	maps := s.client().CoreV1().ConfigMaps(namespace)
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "clock-"}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatalf("%s: %v", when, err)
	}
	if _, err := maps.Get(ctx, made.Name, metav1.GetOptions{}); err != nil {
		s.t.Errorf("%s: %v", when, err)
	}
	if err := s.use(s.token()); err != nil && !apierrors.IsForbidden(err) {
		s.t.Errorf("%s: a new token is answered with: %v", when, err)
	}
}

// token issues a token for an hour.
func (s *server) token() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), slowStart())
	defer cancel()
	lasts := int64(3600)
	r, err := s.client().CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "default",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &lasts}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Status.Token
}

// use asks for something with the token; the account may do nothing, which is
// answered with 403.
func (s *server) use(token string) error {
	s.t.Helper()
	cfg := rest.AnonymousClientConfig(s.config())
	cfg.BearerToken = token
	api, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), slowStart())
	defer cancel()
	_, err = api.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	return err
}
