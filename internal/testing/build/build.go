// Package build makes objects for tests: small, valid, and complete enough that
// the API server takes them as they are. What a test cares about it changes
// itself. It reads and writes nothing.
package build

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/meta"
)

// Namespace is where everything is that has one.
const Namespace = metav1.NamespaceDefault

// with returns obj after every change.
func with[T meta.Object](obj T, changes []func(T)) T {
	for _, change := range changes {
		change(obj)
	}
	return obj
}

func labels(app string) map[string]string { return map[string]string{"app": app} }

// PodSpec is one container that asks for 100m CPU and 64Mi of memory.
func PodSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{
		Name: "main", Image: "registry.test/app:1",
		Ports:     []corev1.ContainerPort{{ContainerPort: 8080}},
		Resources: corev1.ResourceRequirements{Requests: Resources("100m", "64Mi")},
	}}}
}

// Resources is a list of CPU and memory.
func Resources(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}
}

// Pod is a pod labelled app=name.
func Pod(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
	return with(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace, Labels: labels(name)},
		Spec:       PodSpec(),
	}, changes)
}

// Deployment runs replicas pods labelled app=name and rolls out by a quarter.
func Deployment(name string, replicas int32, changes ...func(*appsv1.Deployment)) *appsv1.Deployment {
	quarter := intstr.FromString("25%")
	return with(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace, Labels: labels(name)},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels(name)},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &quarter, MaxUnavailable: &quarter},
			},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(name)}, Spec: PodSpec()},
		},
	}, changes)
}

// Service sends port 80 to port 8080 of the pods labelled app=name.
func Service(name string, changes ...func(*corev1.Service)) *corev1.Service {
	return with(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace},
		Spec: corev1.ServiceSpec{
			Selector: labels(name),
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, changes)
}

// Node has 4 CPUs, 8Gi of memory, room for 110 pods, and is ready.
func Node(name string, changes ...func(*corev1.Node)) *corev1.Node {
	room := Resources("4", "8Gi")
	room[corev1.ResourcePods] = resource.MustParse("110")
	return with(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room.DeepCopy(),
			NodeInfo: corev1.NodeSystemInfo{
				OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "v1.37.0", ContainerRuntimeVersion: "pretended://1",
			},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
			}},
		},
	}, changes)
}

// Image makes the pods of a Deployment run version of the image, which is what
// a rollout is.
func Image(version int) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("registry.test/app:%d", version)
	}
}
