/* What the launchers have in common. */
#include <errno.h>
#include <fcntl.h>
#include <linux/un.h>
#include <stddef.h>
#include <sys/socket.h>

#include "../pause/sys.h"

static word length(const char *s)
{
	word n = 0;

	while (s[n])
		n++;
	return n;
}

/* after returns what follows prefix in s, 0 when s does not begin with it. */
static const char *after(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return 0;
	return s;
}

/* reach connects to the socket of a path and returns a descriptor, a negative number when nobody listens. */
static long reach(const char *path, word n)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	long fd = call(nr_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0);

	if (fd < 0 || n >= sizeof address.sun_path)
		return -1;
	for (word i = 0; i < n; i++)
		address.sun_path[i] = path[i];
	if (call(nr_connect, fd, (long)&address, offsetof(struct sockaddr_un, sun_path) + n + 1, 0, 0) < 0)
		return -1;
	return fd;
}

/* become executes the program of that name beside this one. */
static void become(const char *program, char **args, char **environment)
{
	static char path[4096 + 256];
	long n = call(nr_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)path, 4096, 0);

	while (n > 0 && path[n - 1] != '/')
		n--;
	if (n <= 0)
		return;
	for (word i = 0; i <= length(program); i++)
		path[n + i] = program[i];
	call(nr_execve, (long)path, (long)args, (long)environment, 0, 0);
}
