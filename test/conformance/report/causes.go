package report

import (
	_ "embed"
	"regexp"
	"strings"
)

// reasons.txt says why specs fail, for those who read the results: lines of a target, a regular expression
// over a failed spec's name and its failure, and the reason, divided by tabs. The first that matches counts.
//
//go:embed reasons.txt
var reasonsText string

// A reason is why specs fail.
type reason struct {
	target  string
	matches *regexp.Regexp
	text    string
}

func reasons(text string) (all []reason) {
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) == 3 && !strings.HasPrefix(line, "#") {
			all = append(all, reason{f[0], regexp.MustCompile(f[1]), f[2]})
		}
	}
	return all
}

// unknown is the reason of a failure that nobody has looked into.
const unknown = "not looked into yet"

// why finds a failure's reason.
func why(all []reason, target string, s Spec) string {
	for _, r := range all {
		if r.target == target && r.matches.MatchString(s.Name+"\n"+s.Failure) {
			return r.text
		}
	}
	return unknown
}
