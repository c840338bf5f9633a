package app

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"skiff.dev/skiff/internal/version"
)

// versions is what `skiff version -o json` prints.
type versions struct {
	Skiff      string `json:"skiff"`
	Kubernetes string `json:"kubernetes"`
	Commit     string `json:"commit"`
	Date       string `json:"date"`
	Go         string `json:"go"`
	Platform   string `json:"platform"`
}

func versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := versionText(output)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return cmd
}

func versionText(output string) (string, error) {
	info := version.Info()
	v := versions{version.Skiff, version.Kubernetes, version.Commit, version.Date, info.GoVersion, info.Platform}
	switch output {
	case "":
		return fmt.Sprintf("skiff %s (Kubernetes %s, commit %s)\n", v.Skiff, v.Kubernetes, v.Commit), nil
	case "json":
		data, err := json.MarshalIndent(v, "", "  ")
		return string(data) + "\n", err
	case "yaml":
		data, err := yaml.Marshal(v)
		return string(data), err
	}
	return "", fmt.Errorf("--output: %q is neither json nor yaml", output)
}
