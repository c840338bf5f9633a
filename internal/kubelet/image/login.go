package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// login is one entry of a Docker configuration: for which images, and as whom.
type login struct {
	host, port, prefix string // host may have * in place of its parts
	auth               *runtimeapi.AuthConfig
}

// logins returns the credentials of the pod's pull secrets that fit an image,
// those for the longest path first. A secret that does not exist is no error:
// the image may be public.
// https://kubernetes.io/docs/concepts/containers/images/#config-json
func (s *Store) logins(ctx context.Context, pod *v1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
	var all []login
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := s.Secrets.Secret(ctx, pod.Namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			s.Events.Warning(pod, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading pull secret %s: %w", ref.Name, err)
		}
		some, err := parseSecret(secret)
		if err != nil {
			return nil, fmt.Errorf("pull secret %s: %w", ref.Name, err)
		}
		all = append(all, some...)
	}
	return fitting(all, image)
}

func fitting(all []login, image string) ([]*runtimeapi.AuthConfig, error) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(reference.Domain(ref), ":")
	if host == "docker.io" {
		host = "index.docker.io" // the name it has in configurations
	}
	var fit []login
	for _, l := range all {
		if l.fits(host, port, reference.Path(ref)) {
			fit = append(fit, l)
		}
	}
	slices.SortStableFunc(fit, func(a, b login) int { return len(b.prefix) - len(a.prefix) })
	var out []*runtimeapi.AuthConfig
	for _, l := range fit {
		out = append(out, l.auth)
	}
	return out, nil
}

func (l login) fits(host, port, repository string) bool {
	if l.port != "" && l.port != port {
		return false
	}
	want, have := strings.Split(l.host, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return strings.HasPrefix(repository, l.prefix)
}

// entry is one registry in a Docker configuration.
type entry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func parseSecret(s *v1.Secret) ([]login, error) {
	entries := map[string]entry{}
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		config := struct {
			Auths map[string]entry `json:"auths"`
		}{}
		if err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &config); err != nil {
			return nil, fmt.Errorf("key %s is not a Docker configuration", v1.DockerConfigJsonKey) // the cause may quote a password
		}
		entries = config.Auths
	case v1.SecretTypeDockercfg:
		if err := json.Unmarshal(s.Data[v1.DockerConfigKey], &entries); err != nil {
			return nil, fmt.Errorf("key %s is not a Docker configuration", v1.DockerConfigKey)
		}
	default:
		return nil, nil // not a pull secret
	}
	var out []login
	for _, at := range slices.Sorted(mapKeys(entries)) {
		l, err := parseEntry(at, entries[at])
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", at, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func mapKeys(m map[string]entry) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func parseEntry(at string, e entry) (login, error) {
	if !strings.Contains(at, "://") {
		at = "https://" + at
	}
	u, err := url.Parse(at)
	if err != nil {
		return login{}, fmt.Errorf("not a registry's address")
	}
	l := login{host: u.Hostname(), port: u.Port(), prefix: strings.Trim(u.Path, "/")}
	if l.prefix == "v1" || l.prefix == "v2" {
		l.prefix = "" // https://index.docker.io/v1/ stands for all of it
	}
	l.auth = &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			return login{}, fmt.Errorf("auth is not base64")
		}
		user, password, ok := strings.Cut(string(plain), ":")
		if !ok {
			return login{}, fmt.Errorf("auth is not a user and a password")
		}
		l.auth.Username, l.auth.Password = user, strings.TrimRight(password, "\x00")
	}
	return l, nil
}
