package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/scheduler/config"
	"skiff.dev/skiff/internal/scheduler/framework"
	"skiff.dev/skiff/internal/scheduler/plugins"
)

// profile is the plugins that one scheduler name stands for, by what they are
// called for.
type profile struct {
	name   string
	admits []*framework.Any
	less   *framework.Any
	looks  []look // all that are prepared: filters in their order, then scorers
	binds  []*framework.Any
	// percentage of nodes to look at for a pod whose class is new; 0 adapts to
	// the size of the cluster.
	percentage int32
}

// look is a plugin that looks at nodes.
type look struct {
	*framework.Any
	filters bool
	weight  int64 // of its score; 0 if it does not score
}

// newProfile makes the plugins that the configuration enables. Plugins come
// from, in rising precedence: the default list, multiPoint, the list of one
// extension point.
func newProfile(c *client.Client, cfg *configv1.KubeSchedulerConfiguration, p *configv1.KubeSchedulerProfile) (*profile, error) {
	made := &profile{name: *p.SchedulerName, percentage: *cfg.PercentageOfNodesToScore}
	if p.PercentageOfNodesToScore != nil {
		made.percentage = *p.PercentageOfNodesToScore
	}
	b := &builder{plugins: map[string]*framework.Any{}, weights: map[string]int32{}}
	if err := b.makeAll(c, p); err != nil {
		return nil, err
	}
	set := p.Plugins
	if set == nil {
		set = &configv1.Plugins{}
	}
	if err := b.multiPoint(set.MultiPoint); err != nil {
		return nil, err
	}
	return made, b.fill(made, set)
}

// builder works out the plugin lists of one profile.
type builder struct {
	plugins map[string]*framework.Any
	weights map[string]int32  // defaults
	multi   []configv1.Plugin // what multiPoint enables, the defaults included
}

func (b *builder) makeAll(c *client.Client, p *configv1.KubeSchedulerProfile) error {
	for _, f := range plugins.All() {
		used := false
		made, err := f.New(c, func(into any) error {
			used = true
			return config.Args(p, f.Name, into)
		})
		if err != nil {
			return fmt.Errorf("initializing plugin %q: %w", f.Name, err)
		}
		if !used && slices.ContainsFunc(p.PluginConfig, func(pc configv1.PluginConfig) bool { return pc.Name == f.Name }) {
			return fmt.Errorf("plugin %q takes no args", f.Name)
		}
		b.plugins[f.Name], b.weights[f.Name] = made, f.Weight
		b.multi = append(b.multi, configv1.Plugin{Name: f.Name})
	}
	for _, pc := range p.PluginConfig {
		if b.plugins[pc.Name] == nil {
			return fmt.Errorf("plugin %q does not exist", pc.Name)
		}
	}
	return nil
}

// multiPoint applies the configured multiPoint to the default list: an enabled
// default keeps its place, others come after.
func (b *builder) multiPoint(set configv1.PluginSet) error {
	kept := b.multi[:0]
	for _, d := range b.multi {
		if i := indexOf(set.Enabled, d.Name); i >= 0 {
			kept = append(kept, set.Enabled[i])
		} else if !disables(set, d.Name) {
			kept = append(kept, d)
		}
	}
	for _, e := range set.Enabled {
		if b.plugins[e.Name] == nil {
			return fmt.Errorf("plugin %q does not exist", e.Name)
		}
		if indexOf(kept, e.Name) < 0 {
			kept = append(kept, e)
		}
	}
	b.multi = kept
	return nil
}

// at returns the plugins of one extension point: those of multiPoint that have
// something to do there, with the point's own list applied.
func (b *builder) at(point string, set configv1.PluginSet, has func(*framework.Any) bool) ([]configv1.Plugin, error) {
	var first, rest, last []configv1.Plugin
	for _, e := range set.Enabled {
		p := b.plugins[e.Name]
		if p == nil {
			return nil, fmt.Errorf("%s plugin %q does not exist", point, e.Name)
		}
		if !has(p) {
			return nil, fmt.Errorf("plugin %q does not extend %s plugin", e.Name, point)
		}
		if indexOf(b.multi, e.Name) >= 0 {
			first = append(first, e)
		} else {
			last = append(last, e)
		}
	}
	for _, m := range b.multi {
		if has(b.plugins[m.Name]) && indexOf(set.Enabled, m.Name) < 0 && !disables(set, m.Name) {
			rest = append(rest, m)
		}
	}
	return slices.Concat(first, rest, last), nil
}

func (b *builder) fill(to *profile, set *configv1.Plugins) error {
	var errs []error
	at := func(point string, set configv1.PluginSet, has func(*framework.Any) bool) []configv1.Plugin {
		list, err := b.at(point, set, has)
		if err != nil {
			errs = append(errs, err)
		}
		return list
	}
	none := func(*framework.Any) bool { return false }
	for _, unused := range []struct {
		point string
		set   configv1.PluginSet
	}{
		{"PostFilter", set.PostFilter}, {"Reserve", set.Reserve}, {"Permit", set.Permit}, {"PreBind", set.PreBind},
		{"PostBind", set.PostBind}, {"PlacementGenerate", set.PlacementGenerate}, {"PlacementScore", set.PlacementScore},
		{"PodGroupPostFilter", set.PodGroupPostFilter},
	} {
		at(unused.point, unused.set, none)
	}
	for _, e := range at("PreEnqueue", set.PreEnqueue, func(a *framework.Any) bool { return a.Admit != nil }) {
		to.admits = append(to.admits, b.plugins[e.Name])
	}
	for _, e := range at("Bind", set.Bind, func(a *framework.Any) bool { return a.Bind != nil }) {
		to.binds = append(to.binds, b.plugins[e.Name])
	}
	sorts := at("QueueSort", set.QueueSort, func(a *framework.Any) bool { return a.Less != nil })
	filters := func(a *framework.Any) bool { return a.Filters }
	scores := func(a *framework.Any) bool { return a.Scores }
	filter := at("Filter", set.Filter, filters)
	score := at("Score", set.Score, scores)
	if !sameNames(filter, at("PreFilter", set.PreFilter, filters)) {
		errs = append(errs, fmt.Errorf("preFilter and filter enable different plugins; in this scheduler they are one"))
	}
	if !sameNames(score, at("PreScore", set.PreScore, scores)) {
		errs = append(errs, fmt.Errorf("preScore and score enable different plugins; in this scheduler they are one"))
	}
	switch {
	case len(errs) > 0:
		return errs[0]
	case len(sorts) == 0:
		return fmt.Errorf("no queue sort plugin is enabled")
	case len(sorts) > 1:
		return fmt.Errorf("only one queue sort plugin can be enabled, got %d", len(sorts))
	case len(to.binds) == 0:
		return fmt.Errorf("at least one bind plugin is needed for profile with scheduler name %q", to.name)
	}
	to.less = b.plugins[sorts[0].Name]
	for _, e := range filter {
		to.looks = append(to.looks, look{Any: b.plugins[e.Name], filters: true})
	}
	for _, e := range score {
		to.addScorer(b.plugins[e.Name], b.weight(e))
	}
	return nil
}

func (p *profile) addScorer(a *framework.Any, weight int64) {
	for i := range p.looks {
		if p.looks[i].Any == a {
			p.looks[i].weight = weight
			return
		}
	}
	p.looks = append(p.looks, look{Any: a, weight: weight})
}

// weight returns the configured weight of a scorer, or its default, or 1.
func (b *builder) weight(e configv1.Plugin) int64 {
	if e.Weight != nil && *e.Weight != 0 {
		return int64(*e.Weight)
	}
	return int64(max(1, b.weights[e.Name]))
}

func indexOf(list []configv1.Plugin, name string) int {
	return slices.IndexFunc(list, func(p configv1.Plugin) bool { return p.Name == name })
}

func disables(set configv1.PluginSet, name string) bool {
	return indexOf(set.Disabled, name) >= 0 || indexOf(set.Disabled, "*") >= 0
}

func sameNames(a, b []configv1.Plugin) bool {
	names := func(list []configv1.Plugin) []string {
		var all []string
		for _, p := range list {
			all = append(all, p.Name)
		}
		slices.Sort(all)
		return all
	}
	return slices.Equal(names(a), names(b))
}

// holdsBack returns the plugin that does not let the pod be tried yet, or nil.
func (p *profile) holdsBack(pod *corev1.Pod) *framework.Any {
	for _, a := range p.admits {
		if a.Admit(pod) != nil {
			return a
		}
	}
	return nil
}
