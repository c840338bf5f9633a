package oci

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// actions are the kernel's values; those that carry a number have it in their low half.
var actions = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x00030000,
	specs.ActErrno: 0x00050000, specs.ActAllow: 0x7fff0000, specs.ActLog: 0x7ffc0000,
}

// comparisons are libseccomp's numbers of operators.
var comparisons = map[specs.LinuxSeccompOperator]int{
	specs.OpNotEqual: 1, specs.OpLessThan: 2, specs.OpLessEqual: 3, specs.OpEqualTo: 4, specs.OpGreaterEqual: 5,
	specs.OpGreaterThan: 6, specs.OpMaskedEqual: 7,
}

// Rules returns a seccomp profile in the words of skiff-seccomp (carried/seccomp/seccomp.c), which
// translates it; "" where there is none. Profiles with the same rules have the same translation.
func (b *Bundle) Rules() (string, error) {
	s := b.Spec.Linux.Seccomp
	if s == nil {
		return "", nil
	}
	action, err := actionOf(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "default %d\n", action)
	for _, arch := range s.Architectures {
		name, ok := strings.CutPrefix(string(arch), "SCMP_ARCH_")
		if !ok {
			return "", refuse("architecture %s is not known", arch)
		}
		fmt.Fprintf(&out, "arch %s\n", strings.ToLower(name))
	}
	for _, rule := range s.Syscalls {
		if err := writeRule(&out, rule); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

func actionOf(name specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	action, ok := actions[name]
	if !ok {
		return 0, refuse("seccomp action %s is not known", name)
	}
	if name == specs.ActErrno {
		number := uint(unix.EPERM)
		if errno != nil {
			number = *errno
		}
		if number > 4095 {
			return 0, refuse("%d is no error", number)
		}
		action |= uint32(number)
	}
	return action, nil
}

// writeRule writes a rule for each name. libseccomp compares an argument once in a rule; two comparisons of
// one argument are alternatives, as they are for runc.
func writeRule(out *strings.Builder, rule specs.LinuxSyscall) error {
	action, err := actionOf(rule.Action, rule.ErrnoRet)
	if err != nil {
		return err
	}
	alternatives := [][]specs.LinuxSeccompArg{rule.Args}
	compared := map[uint]bool{}
	for _, a := range rule.Args {
		if compared[a.Index] {
			alternatives = nil
			for _, a := range rule.Args {
				alternatives = append(alternatives, []specs.LinuxSeccompArg{a})
			}
			break
		}
		compared[a.Index] = true
	}
	for _, args := range alternatives {
		for _, name := range rule.Names {
			if name == "" || strings.ContainsAny(name, " \n\t") {
				return refuse("%q is no system call", name)
			}
			fmt.Fprintf(out, "rule %s %d %d", name, action, len(args))
			for _, a := range args {
				op, ok := comparisons[a.Op]
				if !ok || a.Index > 5 {
					return refuse("seccomp comparison %s of argument %d", a.Op, a.Index)
				}
				fmt.Fprintf(out, " %d %d %d %d", a.Index, op, a.Value, a.ValueTwo)
			}
			out.WriteByte('\n')
		}
	}
	return nil
}

// filterFlags are those of seccomp(2) that a profile asks for. One that names none has no mitigation of
// speculative stores forced upon it, as with runc.
func filterFlags(s *specs.LinuxSeccomp) (uint64, error) {
	if s == nil {
		return 0, nil
	}
	if s.Flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uint64
	for _, name := range s.Flags {
		switch name {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC": // there is one thread
		default:
			return 0, refuse("seccomp flag %s", name)
		}
	}
	return flags, nil
}
