/*
 * launcher: the program that containerd knows as the shim. containerd executes it for every sandbox to
 * be told at which socket the sandbox's shim answers; with one shim for all pods the answer is always
 * the same. So the shim, when it starts to serve, leaves the answer in a file, and this gives it, if the
 * socket still takes connections. Everything else is done by the shim's own program beside this one,
 * whose execution costs some twenty times as much.
 *
 * containerd executes the shim again for every container and sandbox that has been deleted, lest its shim
 * have died. The shim leaves a note in the bundle of each that it has deleted itself, and this gives it.
 *
 * It reads SKIFF_SHIM_ANSWER, the file's name: the first line is the socket's path, the rest the answer.
 * There is none when pods are spread over several shims. It reads skiff-deleted in the working directory:
 * the first line is the container's identifier, the rest the answer.
 */
#include "launcher.h"

static const char program[] = "containerd-shim-skiff";
static const char pod[] = "\"io.kubernetes.cri.sandbox-id\":\"";

/* load reads a file of less than size bytes and returns how many they are, 0 when it cannot. */
static word load(const char *name, char *to, word size)
{
	long fd = call(nr_openat, AT_FDCWD, (long)name, O_RDONLY, 0, 0);
	word n = 0;

	if (fd < 0)
		return 0;
	while (n < size) {
		long got = call(nr_read, fd, (long)to + n, size - n, 0, 0);

		if (got < 0)
			return 0;
		if (got == 0)
			return n;
		n += got;
	}
	return 0;
}

/* of_pod tells whether the bundle in the working directory is one of a pod. */
static int of_pod(void)
{
	static char spec[1 << 20];
	word n = load("config.json", spec, sizeof spec - 1);

	for (word i = 0; i < n; i++)
		if (spec[i] == pod[0] && after(spec + i, pod))
			return 1;
	return 0;
}

/* answer gives the answer of the file and ends, or returns when that is not to be given. */
static void answer(const char *file)
{
	static char text[4096];
	word n = load(file, text, sizeof text), line = 0;

	while (line < n && text[line] != '\n')
		line++;
	if (line + 1 >= n || !of_pod() || reach(text, line) < 0)
		return;
	n -= line + 1;
	if (call(nr_write, 1, (long)text + line + 1, n, 0, 0) == (long)n)
		leave(0);
}

/* same tells whether two strings of which the first has n bytes are the same. */
static int same(const char *a, word n, const char *b)
{
	for (word i = 0; i < n; i++)
		if (a[i] != b[i])
			return 0;
	return !b[n];
}

/* deleted gives the answer for a container that the shim has deleted and ends, or returns. */
static void deleted(char **args)
{
	static char text[4096];
	word n = load("skiff-deleted", text, sizeof text), line = 0;
	const char *id = 0;

	for (; *args; args++)
		if (same("-id", 3, *args))
			id = args[1];
	while (line < n && text[line] != '\n')
		line++;
	if (line == n || !id || !same(text, line, id))
		return;
	n -= line + 1;
	if (call(nr_write, 1, (long)text + line + 1, n, 0, 0) == (long)n)
		leave(0);
}

__attribute__((noreturn, used)) void run(word *stack)
{
	static const char failed[] = "the shim's program cannot be executed\n";
	char **args = (char **)(stack + 1), **environment = args + stack[0] + 1;
	const char *file = 0;

	for (char **e = environment; *e; e++)
		if (after(*e, "SKIFF_SHIM_ANSWER="))
			file = after(*e, "SKIFF_SHIM_ANSWER=");
	if (stack[0] > 1) {
		const char *action = args[stack[0] - 1];

		if (file && same("start", 5, action))
			answer(file);
		if (same("delete", 6, action))
			deleted(args);
	}
	become(program, args, environment);
	call(nr_write, 2, (long)failed, sizeof failed - 1, 0, 0);
	leave(1);
}
