package env

import "strings"

// Expand replaces each $(NAME) that lookup knows. $$ stands for one $, so that
// $$(NAME) gives $(NAME); what is not known or not closed stays as it is.
func Expand(s string, lookup func(name string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			whole := s[i : i+end+1]
			if v, ok := lookup(whole[2 : len(whole)-1]); ok {
				whole = v
			}
			out.WriteString(whole)
			i += end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

// ExpandAll expands each of list from vars.
func ExpandAll(list []string, vars map[string]string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Expand(s, func(name string) (string, bool) {
			v, ok := vars[name]
			return v, ok
		})
	}
	return out
}
