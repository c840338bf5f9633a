/*
 * seccomp: translates a seccomp profile into the kernel's filter by libseccomp, which takes some 20 ms for
 * the default one; skiff's shim keeps the result, where runc does it anew for each container. It reads
 * lines of words, and writes instructions:
 *
 *	default ACTION
 *	arch NAME
 *	rule SYSCALL ACTION COUNT [INDEX OPERATOR VALUE VALUE]...
 *
 * Actions are the kernel's values, operators libseccomp's. A system call that the library does not know
 * is passed over. In front of the filter come instructions that answer ENOSYS to system calls that are
 * newer than any in the profile, instead of the default: programs then do without them, where EPERM
 * makes them give up.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { most_archs = 8, x32_bit = 0x40000000 };

static struct {
	uint32_t token;
	int newest; /* number of a system call */
} archs[most_archs];
static int arch_count;
static uint32_t default_action;

static void fail(const char *what, int err)
{
	fprintf(stderr, "seccomp: %s: %s\n", what, strerror(err < 0 ? -err : err));
	exit(1);
}

static void add_arch(scmp_filter_ctx filter, const char *name)
{
	uint32_t token = seccomp_arch_resolve_name(name);
	int err;

	if (!token || arch_count == most_archs)
		fail(name, EINVAL);
	err = seccomp_arch_add(filter, token);
	if (err < 0 && err != -EEXIST)
		fail(name, err);
	archs[arch_count].token = token;
	archs[arch_count++].newest = -1;
}

/* note remembers the newest system call of each architecture. */
static void note(const char *name)
{
	for (int i = 0; i < arch_count; i++) {
		int nr = seccomp_syscall_resolve_name_arch(archs[i].token, name);

		if (nr >= 0 && (nr & ~x32_bit) > archs[i].newest)
			archs[i].newest = nr & ~x32_bit;
	}
}

static void add_rule(scmp_filter_ctx filter)
{
	struct scmp_arg_cmp args[6];
	char name[128];
	uint32_t action;
	unsigned count;
	int nr, err;

	if (scanf("%127s %" SCNu32 " %u", name, &action, &count) != 3 || count > 6)
		fail("a rule", EINVAL);
	for (unsigned i = 0; i < count; i++) {
		int op;

		if (scanf("%u %d %" SCNu64 " %" SCNu64, &args[i].arg, &op, &args[i].datum_a, &args[i].datum_b) != 4)
			fail(name, EINVAL);
		args[i].op = op;
	}
	nr = seccomp_syscall_resolve_name(name);
	if (nr == __NR_SCMP_ERROR)
		return;
	note(name);
	if (action == default_action) /* which the library takes for a mistake */
		return;
	err = seccomp_rule_add_array(filter, action, nr, count, args);
	if (err < 0)
		fail(name, err);
}

static void put(struct sock_filter instruction)
{
	if (fwrite(&instruction, sizeof instruction, 1, stdout) != 1)
		fail("writing", errno);
}

/* newest_x32 is the number after which x32's system calls are new: never, where x32 is not in the profile. */
static uint32_t newest_x32(void)
{
	for (int i = 0; i < arch_count; i++)
		if (archs[i].token == SCMP_ARCH_X32 && archs[i].newest >= 0)
			return x32_bit | archs[i].newest;
	return UINT32_MAX;
}

/*
 * put_newer writes the instructions for system calls that the profile is too old for. x32 has x86_64's
 * token in the kernel, and a bit in its numbers.
 */
static void put_newer(void)
{
	put((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
	for (int i = 0; i < arch_count; i++) {
		uint32_t other = archs[i].token == SCMP_ARCH_X86_64 ? x32_bit : UINT32_MAX;

		if (archs[i].newest < 0 || archs[i].token == SCMP_ARCH_X32)
			continue;
		put((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, archs[i].token, 0, 6));
		put((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
		put((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, other, 1, 0));
		put((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, archs[i].newest, 1, 2));
		put((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, newest_x32(), 0, 1));
		put((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
		put((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
	}
}

/* strict tells whether the default action keeps a program from noticing that a system call is new. */
static int strict(uint32_t action)
{
	uint32_t kind = action & SECCOMP_RET_ACTION_FULL;

	return kind == SECCOMP_RET_KILL_THREAD || kind == SECCOMP_RET_KILL_PROCESS || kind == SECCOMP_RET_TRAP ||
	       (kind == SECCOMP_RET_ERRNO && (action & SECCOMP_RET_DATA) != ENOSYS);
}

int main(void)
{
	scmp_filter_ctx filter;
	char word[32];
	int err;

	if (scanf("%31s %" SCNu32, word, &default_action) != 2 || strcmp(word, "default"))
		fail("the first line", EINVAL);
	filter = seccomp_init(default_action);
	if (!filter)
		fail("the default action", EINVAL);
	archs[arch_count].token = seccomp_arch_native();
	archs[arch_count++].newest = -1;
	/* The shim sets no_new_privs where it is asked for; a tree finds a rule faster than a list. */
	err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0);
	if (err == 0)
		err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (err < 0)
		fail("the filter's attributes", err);
	while (scanf("%31s", word) == 1) {
		char name[64];

		if (!strcmp(word, "rule"))
			add_rule(filter);
		else if (!strcmp(word, "arch") && scanf("%63s", name) == 1) {
			if (seccomp_arch_resolve_name(name) != seccomp_arch_native())
				add_arch(filter, name);
		} else
			fail(word, EINVAL);
	}
	if (strict(default_action))
		put_newer();
	if (fflush(stdout))
		fail("writing", errno);
	err = seccomp_export_bpf(filter, 1);
	if (err < 0)
		fail("the translation", err);
	seccomp_release(filter);
	return 0;
}
