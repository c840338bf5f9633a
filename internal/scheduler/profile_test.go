package scheduler

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/scheduler/config"
)

const header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func profileOf(t *testing.T, yaml string) (*profile, error) {
	t.Helper()
	cfg, err := config.Parse([]byte(header + yaml))
	if err != nil {
		return nil, err
	}
	return newProfile(client.New(nil), cfg, &cfg.Profiles[0])
}

// filtersAndScores names the plugins of a profile that look at nodes.
func filtersAndScores(p *profile) (filters []string, scores map[string]int64) {
	scores = map[string]int64{}
	for _, l := range p.looks {
		if l.filters {
			filters = append(filters, l.Name)
		}
		if l.weight > 0 {
			scores[l.Name] = l.weight
		}
	}
	return filters, scores
}

func TestProfiles(t *testing.T) {
	allFilters := []string{"NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit"}
	allScores := map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "NodeResourcesFit": 1, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1}
	tests := []struct {
		name, yaml string
		filters    []string
		scores     map[string]int64
	}{
		{"default", "", allFilters, allScores},
		{
			"weight at a point", "profiles: [{plugins: {score: {enabled: [{name: ImageLocality, weight: 7}]}}}]",
			allFilters, map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "NodeResourcesFit": 1, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 7},
		},
		{
			"weight at multiPoint", "profiles: [{plugins: {multiPoint: {enabled: [{name: TaintToleration, weight: 9}]}}}]",
			allFilters, map[string]int64{"TaintToleration": 9, "NodeAffinity": 2, "NodeResourcesFit": 1, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1},
		},
		{
			"one point disabled", "profiles: [{plugins: {score: {disabled: [{name: '*'}]}, preScore: {disabled: [{name: '*'}]}}}]",
			allFilters, map[string]int64{},
		},
		{
			"everything disabled but",
			"profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: PrioritySort}, {name: DefaultBinder}, {name: NodeResourcesFit}, {name: NodeName}]}}}]",
			[]string{"NodeName", "NodeResourcesFit"}, map[string]int64{"NodeResourcesFit": 1},
		},
		{
			"a plugin of upstream's that is not here, disabled", "profiles: [{plugins: {multiPoint: {disabled: [{name: VolumeZone}]}}}]",
			allFilters, allScores,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := profileOf(t, tt.yaml)
			if err != nil {
				t.Fatal(err)
			}
			filters, scores := filtersAndScores(p)
			if diff := cmp.Diff(tt.filters, filters); diff != "" {
				t.Errorf("filters (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.scores, scores); diff != "" {
				t.Errorf("scores (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadConfigurations(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"unknown field", "profile: []", `unknown field "profile"`},
		{"extenders", "extenders: [{urlPrefix: 'http://x'}]", "extenders: Forbidden"},
		{"percentage", "percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"},
		{"backoff", "podInitialBackoffSeconds: 20", "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds"},
		{"two profiles of one name", "profiles: [{schedulerName: a}, {schedulerName: a}]", `profiles[1].schedulerName: Duplicate value: "a"`},
		{"unknown plugin", "profiles: [{plugins: {filter: {enabled: [{name: Magic}]}}}]", `plugin "Magic" does not exist`},
		{"plugin at a point it does not have", "profiles: [{plugins: {score: {enabled: [{name: NodePorts}]}}}]", `plugin "NodePorts" does not extend Score plugin`},
		{"no binder", "profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]", "at least one bind plugin is needed"},
		{"no order", "profiles: [{plugins: {queueSort: {disabled: [{name: '*'}]}}}]", "no queue sort plugin is enabled"},
		{"half a filter", "profiles: [{plugins: {preFilter: {disabled: [{name: NodePorts}]}}}]", "preFilter and filter enable different plugins"},
		{"unknown argument", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoring: {}}}]}]", `unknown field "scoring"`},
		{"arguments of another plugin", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {kind: NodeAffinityArgs}}]}]", "were not of type NodeResourcesFitArgs"},
		{"arguments where there are none", "profiles: [{pluginConfig: [{name: NodePorts, args: {}}]}]", `plugin "NodePorts" takes no args`},
		{"strategy", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]", `scoringStrategy.type: Unsupported value: "Best"`},
		{"shape", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 1}, {utilization: 50, score: 2}]}}}}]}]",
			"shape[1].utilization: Invalid value: 50: utilization values must be sorted in increasing order"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := profileOf(t, tt.yaml)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant …%s…", err, tt.want)
			}
		})
	}
}
