package image

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
)

func TestLogins(t *testing.T) {
	secret := &v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(`{"auths":{
		"https://index.docker.io/v1/": {"username":"hub","password":"p"},
		"reg.example:5000": {"auth":"cmVnOnB3"},
		"reg.example:5000/team": {"username":"team","password":"p"},
		"*.cloud.example": {"username":"wild","password":"p"}}}`)}}
	all, err := parseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string][]string{
		"nginx":                      {"hub"},
		"docker.io/me/app:1":         {"hub"},
		"reg.example:5000/other/app": {"reg"},
		"reg.example:5000/team/app@sha256:" + digest: {"team", "reg"},
		"reg.example/team/app":                       nil,
		"eu.cloud.example/x":                         {"wild"},
		"a.b.cloud.example/x":                        nil,
		"quay.io/x":                                  nil,
	} {
		logins, err := fitting(all, image)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range logins {
			got = append(got, l.Username)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", image, diff)
		}
	}
	if all[1].auth.Password != "pw" && all[2].auth.Password != "pw" && all[3].auth.Password != "pw" {
		t.Error("the password inside auth is not read")
	}
}

const digest = "0123456789012345678901234567890123456789012345678901234567890123"

func FuzzParseSecret(f *testing.F) {
	f.Add([]byte(`{"auths":{"x":{"auth":"YTpi"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// It must not panic, whatever it says.
		_, _ = parseSecret(&v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: data}})
	})
}

func TestChoose(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	unused := func() []candidate {
		return []candidate{
			{id: "new", size: 30, usage: usage{seen: ago(time.Minute)}},
			{id: "recent", size: 30, usage: usage{seen: ago(time.Hour), used: ago(10 * time.Minute)}},
			{id: "old", size: 30, usage: usage{seen: ago(time.Hour), used: ago(50 * time.Minute)}},
		}
	}
	c := DefaultPullConfig()
	for name, tt := range map[string]struct {
		free   uint64
		maxAge time.Duration
		want   []string
	}{
		"enough room":                      {free: 200, want: nil},
		"the longest unused goes first":    {free: 140, want: []string{"old", "recent"}},
		"only as much as needed":           {free: 149, maxAge: 0, want: []string{"old", "recent"}},
		"what is too old goes anyway":      {free: 500, maxAge: 30 * time.Minute, want: []string{"old"}},
		"a new one stays even if all must": {free: 0, want: []string{"old", "recent"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.MaxAge = tt.maxAge
			var got []string
			for _, i := range choose(unused(), c, 1000, tt.free, now) {
				got = append(got, i.id)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
		})
	}
}
