package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/pki"
)

// What a token's Secret, in kube-system, is called and holds.
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
const (
	tokenType        = corev1.SecretType("bootstrap.kubernetes.io/token")
	tokenNamePrefix  = "bootstrap-token-" // and the token's ID
	tokenID          = "token-id"
	tokenSecret      = "token-secret"
	tokenExpiration  = "expiration" // RFC 3339; none means never
	tokenDescription = "description"
	tokenUsagePrefix = "usage-bootstrap-" // and "authentication" or "signing": "true"
	tokenGroups      = "auth-extra-groups"
)

func tokenCommand() *cobra.Command {
	var a admin
	cmd := &cobra.Command{Use: "token", Short: "Make, list and delete the tokens by which nodes join"}
	a.flags(cmd.PersistentFlags())
	cmd.AddCommand(tokenCreateCommand(&a), tokenListCommand(&a), tokenDeleteCommand(&a))
	return cmd
}

// tokenCreate is what `skiff token create` is told.
type tokenCreate struct {
	ttl         time.Duration
	usages      []string
	description string
	groups      []string
	server      string
	joinCommand bool
}

const defaultTokenTTL = 24 * time.Hour

func tokenCreateCommand(a *admin) *cobra.Command {
	t := tokenCreate{}
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token and print it", Args: cobra.NoArgs,
		Long: `Make a token by which nodes join, and print it. It holds a secret and the hash
of the cluster's CA: who has it can join the cluster and knows that it is the
right one.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, cfg, closer, err := a.open("skiff-token")
			if err != nil {
				return err
			}
			defer closer()
			return t.run(cmd.Context(), cmd.OutOrStdout(), c, cfg.CAData)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&t.ttl, "ttl", defaultTokenTTL, "how long the token is good; 0 for ever")
	f.StringSliceVar(&t.usages, "usages", []string{"authentication", "signing"}, "what the token is for")
	f.StringVar(&t.description, "description", "", "what to show in the list")
	f.StringSliceVar(&t.groups, "groups", nil, "further groups of who joins; each begins with system:bootstrappers:")
	f.StringVar(&t.server, "server", "", "URL of the server in the join command (default: the address that it advertises)")
	f.BoolVar(&t.joinCommand, "print-join-command", false, "print the whole command to run on the new node")
	return cmd
}

func (t *tokenCreate) validate() error {
	if t.ttl < 0 {
		return fmt.Errorf("--ttl: %v is not a time to come", t.ttl)
	}
	if len(t.usages) == 0 {
		return errors.New("--usages: say what the token is for: authentication, signing")
	}
	for _, u := range t.usages {
		if u != "authentication" && u != "signing" {
			return fmt.Errorf("--usages: %q is neither authentication nor signing", u)
		}
	}
	if t.joinCommand && !slices.Contains(t.usages, "authentication") {
		return errors.New("--print-join-command: nobody can join by a token without --usages authentication")
	}
	for _, g := range t.groups {
		if !strings.HasPrefix(g, "system:bootstrappers:") {
			return fmt.Errorf("--groups: %q does not begin with system:bootstrappers:", g)
		}
	}
	return nil
}

func (t *tokenCreate) run(ctx context.Context, out io.Writer, c *client.Client, caPEM []byte) error {
	if err := t.validate(); err != nil {
		return err
	}
	cas, err := pki.ParseCerts(caPEM)
	if err != nil {
		return fmt.Errorf("the kubeconfig's CA: %w", err)
	}
	server := t.server
	if server == "" && t.joinCommand {
		if server, err = advertisedURL(ctx, c); err != nil {
			return err
		}
	}
	token, err := pki.NewJoinToken(cas[0])
	if err != nil {
		return err
	}
	if err := ensureJoinPolicy(ctx, c); err != nil {
		return err
	}
	if _, err := client.For[*corev1.Secret](c).Create(ctx, t.secret(token, time.Now())); err != nil {
		return fmt.Errorf("making the token: %w", err)
	}
	if t.joinCommand {
		_, err = fmt.Fprintf(out, "skiff agent --server %s --token %s\n", server, token.Text())
	} else {
		_, err = fmt.Fprintln(out, token.Text())
	}
	return err
}

func (t *tokenCreate) secret(token pki.JoinToken, now time.Time) *corev1.Secret {
	data := map[string]string{tokenID: token.ID, tokenSecret: token.Secret}
	for _, u := range t.usages {
		data[tokenUsagePrefix+u] = "true"
	}
	if t.ttl > 0 {
		data[tokenExpiration] = now.Add(t.ttl).UTC().Format(time.RFC3339)
	}
	if t.description != "" {
		data[tokenDescription] = t.description
	}
	if len(t.groups) > 0 {
		data[tokenGroups] = strings.Join(t.groups, ",")
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: tokenNamePrefix + token.ID},
		Type:       tokenType,
		StringData: data,
	}
}

// advertisedURL is where the cluster's own pods reach the API server.
func advertisedURL(ctx context.Context, c *client.Client) (string, error) {
	slice, err := client.For[*discoveryv1.EndpointSlice](c).Get(ctx, metav1.NamespaceDefault, "kubernetes")
	if err != nil {
		return "", fmt.Errorf("asking for the server's address (give it with --server): %w", err)
	}
	if len(slice.Endpoints) == 0 || len(slice.Endpoints[0].Addresses) == 0 || len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return "", errors.New("the server advertises no address yet; give it with --server")
	}
	return "https://" + net.JoinHostPort(slice.Endpoints[0].Addresses[0], strconv.Itoa(int(*slice.Ports[0].Port))), nil
}

// joinPolicy lets who holds a token ask for a node's certificate, and nodes
// renew theirs. Upstream leaves these bindings to the installer.
func joinPolicy() []*rbacv1.ClusterRoleBinding {
	const requests = "system:certificates.k8s.io:certificatesigningrequests:"
	bind := func(name, role, group string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
		}
	}
	return []*rbacv1.ClusterRoleBinding{
		bind("skiff:node-bootstrapper", "system:node-bootstrapper", "system:bootstrappers"),
		bind("skiff:node-autoapprove-bootstrap", requests+"nodeclient", "system:bootstrappers"),
		bind("skiff:node-autoapprove-renewal", requests+"selfnodeclient", "system:nodes"),
	}
}

// ensureJoinPolicy makes what is missing of it; what is there is somebody's
// decision.
func ensureJoinPolicy(ctx context.Context, c *client.Client) error {
	for _, b := range joinPolicy() {
		if _, err := client.For[*rbacv1.ClusterRoleBinding](c).Create(ctx, b); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("letting nodes join: %w", err)
		}
	}
	return nil
}

func tokenListCommand(a *admin) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tokens, without their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, closer, err := a.open("skiff-token")
			if err != nil {
				return err
			}
			defer closer()
			return listTokens(cmd.Context(), cmd.OutOrStdout(), c, time.Now())
		},
	}
}

func listTokens(ctx context.Context, out io.Writer, c *client.Client, now time.Time) error {
	secrets, err := client.For[*corev1.Secret](c).List(ctx, metav1.NamespaceSystem, metav1.ListOptions{FieldSelector: "type=" + string(tokenType)})
	if err != nil {
		return fmt.Errorf("listing tokens: %w", err)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tGROUPS")
	for _, s := range secrets {
		ttl, expires := "<forever>", "<never>"
		if end, ends := expirationOf(s); ends {
			ttl, expires = "<expired>", end.Format(time.RFC3339)
			if left := end.Sub(now); left > 0 {
				ttl = duration.HumanDuration(left)
			}
		}
		fmt.Fprintln(w, strings.Join([]string{
			string(s.Data[tokenID]), ttl, expires, usagesOf(s),
			orNone(string(s.Data[tokenDescription])), orNone(string(s.Data[tokenGroups])),
		}, "\t"))
	}
	return w.Flush()
}

// expirationOf returns when a token ends; ok is false if it never does. What is
// not a time has ended already, as for authentication.
func expirationOf(s *corev1.Secret) (end time.Time, ok bool) {
	text := string(s.Data[tokenExpiration])
	if text == "" {
		return time.Time{}, false
	}
	end, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, true
	}
	return end, true
}

func usagesOf(s *corev1.Secret) string {
	var usages []string
	for key, value := range s.Data {
		if u, ok := strings.CutPrefix(key, tokenUsagePrefix); ok && string(value) == "true" {
			usages = append(usages, u)
		}
	}
	slices.Sort(usages)
	return orNone(strings.Join(usages, ","))
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func tokenDeleteCommand(a *admin) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID...", Aliases: []string{"rm"}, Short: "Delete tokens, so that nobody joins by them any more", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, closer, err := a.open("skiff-token")
			if err != nil {
				return err
			}
			defer closer()
			for _, arg := range args {
				id, _, _ := strings.Cut(arg, ".") // whole tokens do as well
				err := client.For[*corev1.Secret](c).Delete(cmd.Context(), metav1.NamespaceSystem, tokenNamePrefix+id, metav1.DeleteOptions{})
				switch {
				case apierrors.IsNotFound(err):
					return fmt.Errorf("there is no token %q; see skiff token list", id)
				case err != nil:
					return fmt.Errorf("deleting token %s: %w", id, err)
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "token %s deleted\n", id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
