package config

import (
	"strings"
	"testing"
	"time"
)

func TestDefault(t *testing.T) {
	c := Default()
	if err := Validate(c); err != nil {
		t.Errorf("the default is invalid: %v", err)
	}
	if *c.Profiles[0].SchedulerName != "default-scheduler" || *c.PodInitialBackoffSeconds != 1 || *c.PodMaxBackoffSeconds != 10 {
		t.Errorf("defaults: %+v", c)
	}
	l := c.LeaderElection
	if !*l.LeaderElect || l.ResourceLock != "leases" || l.ResourceName != "kube-scheduler" || l.ResourceNamespace != "kube-system" ||
		l.LeaseDuration.Duration != 15*time.Second || l.RenewDeadline.Duration != 10*time.Second || l.RetryPeriod.Duration != 2*time.Second {
		t.Errorf("leader election defaults: %+v", l)
	}
}

func TestParse(t *testing.T) {
	const header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
	c, err := Parse([]byte(header + "podMaxBackoffSeconds: 30\nprofiles: [{schedulerName: a}, {schedulerName: b}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if *c.PodMaxBackoffSeconds != 30 || *c.Profiles[1].SchedulerName != "b" {
		t.Errorf("parsed %+v", c)
	}
	for _, tt := range []struct{ yaml, want string }{
		{"kind: KubeSchedulerConfiguration\napiVersion: kubescheduler.config.k8s.io/v1beta3\n", "want kubescheduler.config.k8s.io/v1"},
		{header + "parallelism: 0\nparallelism: 1\n", "already set"},
		{header + "parallelism: -1\n", "parallelism: Invalid value: -1: should be an integer value greater than zero"},
		{header + "profiles: [{schedulerName: a}, {}]\n", "profiles[1].schedulerName: Required value"},
	} {
		if _, err := Parse([]byte(tt.yaml)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want …%s…", tt.yaml, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{plugins: {}}]\n")
	f.Fuzz(func(t *testing.T, yaml string) {
		if c, err := Parse([]byte(yaml)); err == nil {
			if err := Validate(c); err != nil {
				t.Errorf("parsed but invalid: %v", err)
			}
		}
	})
}
