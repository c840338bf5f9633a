package pod

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/check"
)

func simple() *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", ResourceVersion: "1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx:1.27"}}},
	}
	Default(p)
	return p
}

func faults(r *check.Report) []string {
	var out []string
	for _, e := range r.Errors() {
		out = append(out, e.Error())
	}
	return out
}

func ptr[V any](v V) *V { return &v }

func TestValidateCreate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*corev1.Pod)
		want   []string
	}{
		{"valid", func(*corev1.Pod) {}, nil},
		{"no containers", func(p *corev1.Pod) { p.Spec.Containers = nil }, []string{"spec.containers: Required value"}},
		{"no image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "" }, []string{"spec.containers[0].image: Required value"}},
		{"padded image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = " a" },
			[]string{`spec.containers[0].image: Invalid value: " a": must not have leading or trailing whitespace`}},
		{"bad container name", func(p *corev1.Pod) { p.Spec.Containers[0].Name = "A_b" },
			[]string{`spec.containers[0].name: Invalid value: "A_b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`}},
		{"same name twice", func(p *corev1.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, p.Spec.Containers[0])
		}, []string{`spec.initContainers[0].name: Duplicate value: "web"`}},
		{"unknown restart policy", func(p *corev1.Pod) { p.Spec.RestartPolicy = "Maybe" },
			[]string{`spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "Never", "OnFailure"`}},
		{"request above limit", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": resource.MustParse("600m")},
				Limits:   corev1.ResourceList{"cpu": resource.MustParse("500m")},
			}
		}, []string{`spec.containers[0].resources.requests: Invalid value: "600m": must be less than or equal to cpu limit of 500m`}},
		{"unknown resource", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"gold": resource.MustParse("1")}
		}, []string{
			`spec.containers[0].resources.limits[gold]: Invalid value: "gold": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.limits[gold]: Invalid value: "gold": must be a standard resource for containers`,
		}},
		{"mount without volume", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		}, []string{`spec.containers[0].volumeMounts[0].name: Not found: "data"`}},
		{"subPath that climbs", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data", SubPath: "a/../../b"}}
		}, []string{`spec.containers[0].volumeMounts[0].subPath: Invalid value: "a/../../b": must not contain '..'`}},
		{"two volume sources", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}}}
		}, []string{"spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"}},
		{"probe without handler", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{SuccessThreshold: 1}
		}, []string{"spec.containers[0].livenessProbe: Required value: must specify a handler type"}},
		{"liveness needs one success", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{SuccessThreshold: 2,
				ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(70000)}}}
		}, []string{
			"spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 70000: must be between 1 and 65535, inclusive",
			"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
		}},
		{"init container with probe", func(p *corev1.Pod) {
			c := *p.Spec.Containers[0].DeepCopy()
			c.Name, c.ReadinessProbe = "init", &corev1.Probe{}
			p.Spec.InitContainers = []corev1.Container{c}
		}, []string{"spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		{"env of an unknown field", func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.phase"}}}}
		}, []string{`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`}},
		{"host port twice", func(p *corev1.Pod) {
			port := corev1.ContainerPort{ContainerPort: 80, HostPort: 80, Protocol: corev1.ProtocolTCP}
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{port, port}
		}, []string{`spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//80"`}},
		{"toleration of all keys", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpEqual}}
		}, []string{`spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when ` + "`key`" + ` is empty, which means "match all values and all keys"`}},
		{"gated and bound", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.SchedulingGates = "n1", []corev1.PodSchedulingGate{{Name: "x.io/wait"}}
		}, []string{"spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"}},
		{"dns none without config", func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone },
			[]string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"privileged without escalation", func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ProcMount: ptr(corev1.ProcMountType("Odd"))}
		}, []string{`spec.containers[0].securityContext.procMount: Unsupported value: "Odd": supported values: "Default", "Unmasked"`}},
		{"windows field on windows", func(p *corev1.Pod) {
			p.Spec.OS, p.Spec.SecurityContext.RunAsUser = &corev1.PodOS{Name: corev1.Windows}, ptr(int64(1))
		}, []string{"spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod"}},
		{"ephemeral on create", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "dbg", Image: "sh", ImagePullPolicy: corev1.PullAlways, TerminationMessagePolicy: corev1.TerminationMessageReadFile}}}
		}, []string{"spec.ephemeralContainers: Forbidden: cannot be set on create"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := simple()
			tc.change(p)
			r := check.NewReport()
			ValidateCreate(r, p)
			if diff := cmp.Diff(tc.want, faults(r)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValidateTemplate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*corev1.PodTemplateSpec)
		want   []string
	}{
		{"host network leaves host ports to the pod", func(t *corev1.PodTemplateSpec) {
			t.Spec.HostNetwork = true
			t.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
		}, nil},
		{"host network with another host port", func(t *corev1.PodTemplateSpec) {
			t.Spec.HostNetwork = true
			t.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81, Protocol: corev1.ProtocolTCP}}
		}, []string{"spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"}},
		{"no image", func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Image = "" },
			[]string{"spec.containers[0].image: Required value"}},
		{"bad label", func(t *corev1.PodTemplateSpec) { t.Labels = map[string]string{"a b": "c"} },
			[]string{`metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
		{"match label key that the selector has", func(t *corev1.PodTemplateSpec) {
			t.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, MatchLabelKeys: []string{"app"}}}
		}, []string{`spec.topologySpreadConstraints[0].matchLabelKeys[0]: Invalid value: "app": exists in both matchLabelKeys and labelSelector`}},
		{"projected files that collide", func(t *corev1.PodTemplateSpec) {
			items := []corev1.KeyToPath{{Key: "k", Path: "p"}}
			t.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: items}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: items}},
			}}}}}
		}, []string{`spec.volumes[0].projected: Invalid value: "c": conflicting duplicate paths`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := simple()
			template := &corev1.PodTemplateSpec{Spec: p.Spec}
			tc.change(template)
			r := check.NewReport()
			ValidateTemplate(r, template, nil)
			if diff := cmp.Diff(tc.want, faults(r)); diff != "" {
				t.Error(diff)
			}
			again := check.NewReport()
			ValidateTemplate(again, template, template.DeepCopy())
			if again.Failed() {
				t.Errorf("an unchanged template is refused: %v", again.Errors())
			}
		})
	}
}

func TestResolveLabelKeys(t *testing.T) {
	p := simple()
	p.Labels = map[string]string{"hash": "h1"}
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, MatchLabelKeys: []string{"hash", "absent"}}}
	ResolveLabelKeys(p)
	want := []metav1.LabelSelectorRequirement{{Key: "hash", Operator: metav1.LabelSelectorOpIn, Values: []string{"h1"}}}
	if diff := cmp.Diff(want, p.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions); diff != "" {
		t.Error(diff)
	}
	r := check.NewReport()
	ValidateCreate(r, p)
	if r.Failed() {
		t.Errorf("the server's own selector is refused: %v", r.Errors())
	}
}
