/*
 * pause: the first process of a pod sandbox. It holds the pod's namespaces, reaps the orphans that
 * land on it when the pod shares one process namespace, and exits on SIGTERM or SIGINT.
 *
 * Started by runc it finds itself confined. Started by skiff's shim, which says so in its environment,
 * it is still root in namespaces of its own, its working directory is the root file system that it
 * shall have, and it confines itself first: that root and no other mount, no capability, the user it
 * was told, and none but the system calls it needs.
 *
 * It is linked without libc (a few KiB, no page of heap): the signals are blocked and collected with
 * rt_sigtimedwait, so that no handler, and with it no architecture-specific restorer, is needed. A
 * blocked signal is kept for process 1 of a namespace too, where an unblocked default one is dropped.
 */
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "sys.h"

enum { sig_int = 2, sig_term = 15, sig_chld = 17, how_block = 0, wnohang = 1, detach = 2, ready_fd = 3 };
#define BIT(sig) (1UL << ((sig) - 1))
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* must ends the process when a step of its confinement fails: the step's number is the exit code. */
static void must(int step, long result)
{
	if (result < 0)
		leave(step);
}

/* number reads digits and steps over the character after them. */
static long number(const char **s)
{
	long n = 0;

	while (**s >= '0' && **s <= '9')
		n = n * 10 + *(*s)++ - '0';
	if (**s)
		++*s;
	return n;
}

/* ids returns what follows SKIFF_SANDBOX= in the environment's first entry, 0 where there is none. */
static const char *ids(const char *entry)
{
	static const char name[] = "SKIFF_SANDBOX=";

	if (!entry)
		return 0;
	for (word i = 0; i < sizeof name - 1; i++)
		if (entry[i] != name[i])
			return 0;
	return entry + sizeof name - 1;
}

/*
 * confine gives up all but what the loop below needs, and says so by a byte on descriptor 3. It takes
 * the user's and the group's number.
 */
static void confine(const char *who)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr_sigtimedwait, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr_wait4, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr_exit_group, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr_restart, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr_write, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr_close, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { COUNT(rules), rules };
	struct __user_cap_header_struct version = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0, 0, 0 }, { 0, 0, 0 } };
	long uid = number(&who), gid = number(&who);

	must(2, call(nr_mount, 0, (long)"/", 0, MS_REC | MS_PRIVATE, 0));
	must(3, call(nr_pivot_root, (long)".", (long)".", 0, 0, 0));
	must(4, call(nr_umount2, (long)".", detach, 0, 0, 0));
	must(5, call(nr_chdir, (long)"/", 0, 0, 0, 0));
	must(6, call(nr_setresgid, gid, gid, gid, 0, 0));
	must(7, call(nr_setresuid, uid, uid, uid, 0, 0));
	must(8, call(nr_capset, (long)&version, (long)none, 0, 0, 0));
	must(9, call(nr_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(10, call(nr_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&filter, 0, 0));
	must(11, call(nr_write, ready_fd, (long)"", 1, 0, 0));
	must(12, call(nr_close, ready_fd, 0, 0, 0, 0));
}

__attribute__((noreturn, used)) void run(const word *stack)
{
	word set = BIT(sig_int) | BIT(sig_term) | BIT(sig_chld);
	const char *who = ids((const char *)stack[stack[0] + 2]);

	must(1, call(nr_sigprocmask, how_block, (long)&set, 0, sizeof set, 0));
	if (who)
		confine(who);
	for (;;) {
		long sig = call(nr_sigtimedwait, (long)&set, 0, 0, sizeof set, 0);

		if (sig == sig_int || sig == sig_term)
			leave(0);
		if (sig == sig_chld)
			while (call(nr_wait4, -1, 0, wnohang, 0, 0) > 0)
				;
	}
}
