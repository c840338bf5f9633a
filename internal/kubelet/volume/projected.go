package volume

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
)

// projected puts the sources of a projected volume together. Each failure is
// reported, as they are often one mistake.
func (m *Manager) projected(ctx context.Context, v *podVolumes, vol *v1.Volume) (files, time.Time, error) {
	out := files{}
	var failed []error
	var due time.Time
	mode := modeOf(vol.Projected.DefaultMode)
	for i := range vol.Projected.Sources {
		var err error
		switch s := &vol.Projected.Sources[i]; {
		case s.ConfigMap != nil:
			err = m.addConfigMap(ctx, out, v.pod.Namespace, s.ConfigMap.Name, s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional))
		case s.Secret != nil:
			err = m.addSecret(ctx, out, v.pod.Namespace, s.Secret.Name, s.Secret.Items, mode, isTrue(s.Secret.Optional))
		case s.DownwardAPI != nil:
			err = m.addDownward(out, v.pod, s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			var renew time.Time
			renew, err = m.addToken(ctx, out, v, vol.Name, s.ServiceAccountToken, mode)
			if !renew.IsZero() && (due.IsZero() || renew.Before(due)) {
				due = renew
			}
		case s.ClusterTrustBundle != nil:
			err = missing("cluster trust bundles are not supported by this node")
		case s.PodCertificate != nil:
			err = missing("pod certificates are not supported by this node")
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return out, due, joined(failed)
}
