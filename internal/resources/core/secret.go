package core

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

// Secret is v1 Secret.
// https://kubernetes.io/docs/concepts/configuration/secret/
var Secret = &resource.Definition[*corev1.Secret]{
	Name:     resource.Name{Version: "v1", Kind: "Secret", Plural: "secrets"},
	Default:  defaultSecret,
	Validate: validateSecret,
	Columns: []resource.Column[*corev1.Secret]{
		{Name: "Type", Description: corev1.Secret{}.SwaggerDoc()["type"], Value: func(s *corev1.Secret) any { return string(s.Type) }},
		{Name: "Data", Description: corev1.Secret{}.SwaggerDoc()["data"], Value: func(s *corev1.Secret) any { return int64(len(s.Data)) }},
		resource.Age[*corev1.Secret](),
	},
	Fields: func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
}

// defaultSecret sets the type, and moves stringData, which is for writing only,
// to where it is read.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

func validateSecret(r *check.Report, s, old *corev1.Secret) {
	size := 0
	for k, v := range s.Data {
		r.At("data").Key(k).Each(k, validation.IsConfigMapKey(k))
		size += len(v)
	}
	if size > maxDataBytes {
		r.At("data").TooLong(maxDataBytes)
	}
	validateSecretType(r, s)
	if old == nil {
		return
	}
	r.At("type").Immutable(s.Type, old.Type)
	if !isSealed(old.Immutable) {
		return
	}
	if !isSealed(s.Immutable) {
		r.At("immutable").Forbidden(sealed)
	}
	if !equality.Semantic.DeepEqual(s.Data, old.Data) {
		r.At("data").Forbidden(sealed)
	}
}

// validateSecretType requires the keys that each type of secret has.
func validateSecretType(r *check.Report, s *corev1.Secret) {
	data := r.At("data")
	require := func(keys ...string) {
		for _, k := range keys {
			if _, ok := s.Data[k]; !ok {
				data.Key(k).Required("")
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			r.At("metadata", "annotations").Key(corev1.ServiceAccountNameKey).Required("")
		}
	case corev1.SecretTypeDockercfg:
		requireJSON(data.Key(corev1.DockerConfigKey), s.Data, corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		requireJSON(data.Key(corev1.DockerConfigJsonKey), s.Data, corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			require(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			data.Key(corev1.SSHAuthPrivateKey).Required("")
		}
	case corev1.SecretTypeTLS:
		require(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
}

// requireJSON requires a key whose value is a JSON object; an error does not
// show the value.
func requireJSON(r *check.Report, data map[string][]byte, key string) {
	v, ok := data[key]
	if !ok {
		r.Required("")
		return
	}
	if err := json.Unmarshal(v, &map[string]any{}); err != nil {
		r.Invalid("<secret contents redacted>", err.Error())
	}
}
