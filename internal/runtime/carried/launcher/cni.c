/*
 * cni: the program that the runtime takes for skiff's network plugin, and executes for every pod that
 * comes and goes. It hands what CNI gives a plugin to skiff, which runs anyway, at the socket that
 * SKIFF_CNI_SOCKET names, and passes the answer on (internal/cni, Server). When nobody answers there,
 * because skiff is not running, or when another runtime executes it, it becomes the plugin's own program
 * beside this one, whose execution costs some twenty times as much.
 */
#include <linux/memfd.h>

#include "launcher.h"

static const char program[] = "skiff-cni-plugin";

/* What comes on standard input, and what goes to standard output. */
static char input[1 << 20], output[1 << 16];

/* load reads standard input up to its end or the size of input, and returns how much that is. */
static word load(void)
{
	word n = 0;

	while (n < sizeof input) {
		long got = call(nr_read, 0, (long)input + n, sizeof input - n, 0, 0);

		if (got <= 0)
			break;
		n += got;
	}
	return n;
}

/* put writes all of n bytes and tells whether it could; a peer that is gone raises no signal. */
static int put(long fd, const char *from, word n)
{
	while (n) {
		long done = call(nr_sendto, fd, (long)from, n, MSG_NOSIGNAL, 0);

		if (done == -ENOTSOCK)
			done = call(nr_write, fd, (long)from, n, 0, 0);
		if (done <= 0)
			return 0;
		from += done;
		n -= done;
	}
	return 1;
}

/* ask asks skiff, and ends with its answer; it returns when there is none. */
static void ask(long skiff, char **environment, word n)
{
	static const char none[] = "";
	long got;
	int code;

	for (char **e = environment; *e; e++)
		if (after(*e, "CNI_") && !put(skiff, *e, length(*e) + 1))
			return;
	if (!put(skiff, none, 1) || !put(skiff, input, n) || call(nr_shutdown, skiff, SHUT_WR, 0, 0, 0) < 0)
		return;
	got = call(nr_read, skiff, (long)output, sizeof output, 0, 0);
	if (got <= 0)
		return;
	code = output[0];
	for (word skip = 1; got > 0; skip = 0) {
		if (!put(1, output + skip, got - skip))
			leave(1);
		got = call(nr_read, skiff, (long)output, sizeof output, 0, 0);
	}
	leave(got < 0 ? 1 : code);
}

/* give_back makes standard input what it was, n bytes of which have been read. */
static int give_back(word n)
{
	long copy = call(nr_memfd_create, (long)"config", MFD_CLOEXEC, 0, 0, 0);

	while (copy >= 0 && n) {
		if (!put(copy, input, n))
			return 0;
		n = load();
	}
	return copy >= 0 && call(nr_lseek, copy, 0, 0, 0, 0) == 0 && call(nr_dup3, copy, 0, 0, 0, 0) == 0;
}

__attribute__((noreturn, used)) void run(word *stack)
{
	static const char failed[] = "the network plugin's program cannot be executed\n";
	char **args = (char **)(stack + 1), **environment = args + stack[0] + 1;
	long skiff = -1;
	int whole = 1;

	for (char **e = environment; *e; e++) {
		const char *path = after(*e, "SKIFF_CNI_SOCKET=");

		if (path)
			skiff = reach(path, length(path));
	}
	if (skiff >= 0) {
		word n = load();

		if (n < sizeof input)
			ask(skiff, environment, n);
		whole = give_back(n);
	}
	if (whole)
		become(program, args, environment);
	put(2, failed, sizeof failed - 1);
	leave(1);
}
