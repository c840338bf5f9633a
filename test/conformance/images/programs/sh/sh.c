/*
 * sh: starts busybox's shell, as the originals have it, and bash where the environment holds a name that
 * is no identifier ("my.config-key"): Debian's busybox would keep such a variable from the programs
 * that the shell runs.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int is_identifier(const char *s)
{
	const char *first = s;

	for (; *s && *s != '='; s++) {
		int letter = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || *s == '_';

		if (!letter && !(s != first && *s >= '0' && *s <= '9'))
			return 0;
	}
	return s != first && *s == '=';
}

int main(int argc, char **argv)
{
	const char *shell = "/bin/busybox";

	(void)argc;
	for (char **e = environ; *e; e++)
		if (!is_identifier(*e))
			shell = "/bin/bash";
	execv(shell, argv); /* both are the shell sh by the name in argv[0] */
	fprintf(stderr, "sh: starting %s: %s\n", shell, strerror(errno));
	return 127;
}
