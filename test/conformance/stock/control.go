package stock

import (
	"context"
	"path/filepath"

	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/machine"
)

// startControlPlane starts etcd, the API server, the controllers and the scheduler on n1.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	n1 := c.Nodes[0]
	if err := c.startEtcd(n1); err != nil {
		return err
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if err := c.StartComponent(n1, name); err != nil {
			return err
		}
		if name == "kube-apiserver" {
			if err := c.Eventually(ctx, "the API server", func() error { return c.probe("/readyz") }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cluster) startEtcd(m *machine.Machine) error {
	args := []string{
		filepath.Join(c.Programs, "etcd"), "--name", "n1", "--data-dir", "/var/lib/etcd",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
		"--initial-cluster", "n1=http://127.0.0.1:2380",
	}
	if !c.Durable {
		args = append(args, "--unsafe-no-fsync")
	}
	return m.Start(machine.Part{Name: "etcd", Args: append(args, c.Flags["etcd"]...)})
}

const etcdURL = "http://127.0.0.1:2379"

// StartComponent starts one of the five on a machine.
func (c *Cluster) StartComponent(m *machine.Machine, name string) error {
	flags := map[string]func(*machine.Machine) []string{
		"kube-apiserver":          c.apiserverFlags,
		"kube-controller-manager": c.controllerFlags,
		"kube-scheduler":          c.schedulerFlags,
		"kubelet":                 c.kubeletFlags,
		"kube-proxy":              c.proxyFlags,
	}[name](m)
	flags = append(flags, c.Flags[name]...)
	return m.Start(machine.Part{Name: name, Args: c.component(name, flags...), Env: c.path(), Restart: true})
}

// path lets parts find a node's programs.
func (c *Cluster) path() []string {
	return []string{"PATH=" + c.Programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

func (c *Cluster) apiserverFlags(m *machine.Machine) []string {
	return []string{
		"--advertise-address=" + m.IP,
		"--allow-privileged=true",
		"--authorization-mode=Node,RBAC",
		"--client-ca-file=" + c.pki("ca.crt"),
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true",
		"--etcd-servers=" + etcdURL,
		"--kubelet-certificate-authority=" + c.pki("ca.crt"),
		"--kubelet-client-certificate=" + c.pki("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + c.pki("apiserver-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--proxy-client-cert-file=" + c.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + c.pki("front-proxy-client.key"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--secure-port=6443",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.pki("sa.pub"),
		"--service-account-signing-key-file=" + c.pki("sa.key"),
		"--service-cluster-ip-range=" + cluster.ServiceNetwork,
		"--tls-cert-file=" + c.pki("apiserver.crt"),
		"--tls-private-key-file=" + c.pki("apiserver.key"),
	}
}

// patientLease lets leaders live through times when the machine has more to do than it can.
var patientLease = [2]string{"--leader-elect-lease-duration=60s", "--leader-elect-renew-deadline=45s"}

func (c *Cluster) controllerFlags(*machine.Machine) []string {
	kubeconfig := c.pki("kube-controller-manager.kubeconfig")
	return []string{
		"--allocate-node-cidrs=true",
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--client-ca-file=" + c.pki("ca.crt"),
		"--cluster-cidr=" + cluster.PodNetwork,
		"--cluster-signing-cert-file=" + c.pki("ca.crt"),
		"--cluster-signing-key-file=" + c.pki("ca.key"),
		"--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
		"--kubeconfig=" + kubeconfig,
		patientLease[0], patientLease[1],
		"--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
		"--root-ca-file=" + c.pki("ca.crt"),
		"--service-account-private-key-file=" + c.pki("sa.key"),
		"--service-cluster-ip-range=" + cluster.ServiceNetwork,
		"--use-service-account-credentials=true",
	}
}

func (c *Cluster) schedulerFlags(*machine.Machine) []string {
	kubeconfig := c.pki("kube-scheduler.kubeconfig")
	return []string{
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--kubeconfig=" + kubeconfig,
		patientLease[0], patientLease[1],
	}
}
