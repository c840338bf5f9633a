/*
 * init: a process of a container until it becomes the container's program, or one that is executed beside
 * it. skiff's shim starts it in the pod's namespaces, with mount and process namespaces of its own or the
 * container's, puts it into the cgroup, and hands it a program over descriptor 3: steps, each a handful of
 * system calls, that make the root file system, give up what the container is not to have, and execute. What
 * a container needs is decided in the shim (oci/steps.go); here it is carried out, and nothing is looked up
 * but paths.
 *
 * Paths inside the container are the image's and the pod's to choose, and somebody else may change them
 * meanwhile: each is opened once, below the root and never out of it (RESOLVE_IN_ROOT), and what was
 * opened is what is mounted on.
 *
 * An answer of 8 bytes says that all is done but the execution, or which step failed and why; then the
 * shim leaves the container to runc. A byte from the shim has it go on; the end of the connection, which
 * is the shim's, ends it.
 *
 * It is linked without libc and executed from a sealed memory file, so that a container which gets hold
 * of /proc/self/exe can change nothing on the host.
 */
#include <asm/fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/stat.h>

#include "../pause/sys.h"

enum { at_cwd = -100, at_recursive = 0x8000, at_empty_path = 0x1000, at_eaccess = 0x200, at_nofollow = 0x100 };
enum { executable = 1, detach = 2, peer = 3, most = 1 << 19, path_max = 4096 };
enum { device_type = 0170000, character = 0020000, directory_type = 0040000 };

struct step {
	word op, a, b, c, d, e, f;
};

/* The program as it is received: how many steps, they, and what they point to, by offset. */
static struct {
	word size, steps;
	char body[most];
} program __attribute__((aligned(8)));

static int root = -1;   /* the container's root, once there is one */
static int arrived;     /* the working directory has been entered */
static long mask = -1;  /* the empty directory that masks others */

static const char *text(word offset)
{
	return program.body + offset;
}

static word length(const char *s)
{
	word n = 0;

	while (s[n])
		n++;
	return n;
}

/* take reads exactly size bytes from the shim, or ends the process with it. */
static void take(void *to, word size)
{
	char *at = to;

	while (size > 0) {
		long n = call(nr_read, peer, (long)at, size, 0, 0);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			leave(1);
		at += n;
		size -= n;
	}
}

/* tell gives the shim an answer: the number of a step and its error, or -1 and 0. */
static void tell(int step, int error)
{
	int answer[2] = { step, error };

	if (call(nr_write, peer, (long)answer, sizeof answer, 0, 0) != sizeof answer)
		leave(1);
}

/* find opens a path below the root, as a place: nothing of it is read or changed. */
static long find(const char *path, word flags, word resolve)
{
	struct open_how how = { O_PATH | O_CLOEXEC | flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve };
	long fd;

	do /* somebody renames on the way */
		fd = call(nr_openat2, root, (long)path, (long)&how, sizeof how, 0);
	while (fd == -EAGAIN || fd == -EINTR);
	return fd;
}

static void drop(long fd)
{
	call(nr_close, fd, 0, 0, 0, 0);
}

/* directory finds a directory and makes what is missing of it. */
static long directory(const char *path, word resolve)
{
	char here[path_max];
	word i = 0, began = 0;
	long fd = find(path, O_DIRECTORY, resolve), next;

	if (fd != -ENOENT || length(path) >= path_max)
		return fd;
	fd = find("/", O_DIRECTORY, resolve);
	for (; fd >= 0; i++) {
		here[i] = path[i];
		if (path[i] && path[i] != '/')
			continue;
		here[i] = 0;
		if (i > began) {
			next = find(here, O_DIRECTORY, resolve);
			if (next == -ENOENT) {
				next = call(nr_mkdirat, fd, (long)(here + began), 0755, 0, 0);
				if (next == 0 || next == -EEXIST)
					next = find(here, O_DIRECTORY, resolve);
			}
			drop(fd);
			fd = next;
		}
		if (!path[i])
			break;
		here[i] = '/';
		began = i + 1;
	}
	return fd;
}

/* parent makes and finds the directory that a path is in, and the path's last part. */
static long parent(const char *path, const char **name)
{
	char above[path_max];
	word n = length(path), i;

	if (n >= path_max)
		return -ENAMETOOLONG;
	while (n > 0 && path[n - 1] != '/')
		n--;
	for (i = 0; i < n; i++)
		above[i] = path[i];
	above[i] = 0;
	*name = path + n;
	return directory(above, 0);
}

/* place finds what is to be mounted on, and makes it if it is missing. */
static long place(const char *path, word is_directory)
{
	const char *name;
	long fd, above;

	if (is_directory)
		return directory(path, 0);
	fd = find(path, 0, 0);
	if (fd != -ENOENT)
		return fd;
	above = parent(path, &name);
	if (above < 0)
		return above;
	fd = call(nr_openat, above, (long)name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0755, 0);
	drop(above);
	if (fd < 0)
		return fd;
	drop(fd);
	return find(path, 0, 0);
}

static long attach(long tree, long to)
{
	return call(nr_move_mount, tree, (long)"", to, (long)"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* set changes a mount's attributes: the low half of them is to be set, the high half to be cleared. */
static long set(long tree, word flags, word attributes, word propagation)
{
	struct mount_attr attr = { attributes & 0xffffffff, attributes >> 32, propagation, 0 };

	return call(nr_mount_setattr, tree, (long)"", at_empty_path | flags, (long)&attr, sizeof attr);
}

/*
 * enter_root makes the root a mount of its own, in a tree that sends nothing back to the host; a private one
 * learns of nothing from there either.
 */
static long enter_root(const char *path, word private)
{
	long err = call(nr_mount, 0, (long)"/", 0, MS_REC | MS_SLAVE, 0);

	if (err == 0)
		err = call(nr_mount, (long)path, (long)path, 0, MS_BIND | MS_REC, 0);
	if (err == 0 && private)
		err = call(nr_mount, 0, (long)path, 0, MS_PRIVATE, 0);
	if (err == 0)
		err = root = call(nr_openat, at_cwd, (long)path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
	return err < 0 ? err : 0;
}

/* mount_new mounts a new file system; it may not hide behind links that the image has. */
static long mount_new(const struct step *s)
{
	char name[] = "/proc/self/fd/\0\0\0\0\0\0\0\0\0";
	char *at = name + sizeof "/proc/self/fd/" - 1;
	long fd = directory(text(s->c), s->f), err, n = fd, scale = 1;

	if (fd < 0)
		return fd;
	while (n / scale >= 10)
		scale *= 10;
	for (; scale; scale /= 10)
		*at++ = '0' + n / scale % 10;
	err = call(nr_mount, (long)text(s->b), (long)name, (long)text(s->a), s->d, (long)text(s->e));
	drop(fd);
	return err;
}

/* of_proc tells whether a place is in /proc, however it is called: what is there must be the kernel's. */
static int of_proc(long fd)
{
	long about[32]; /* a struct statfs, whose first field is the type */

	return call(nr_fstatfs, fd, (long)about, 0, 0, 0) != 0 || about[0] == PROC_SUPER_MAGIC;
}

/* bind mounts a part of the host's tree. */
static long bind(const struct step *s)
{
	word deep = s->c ? at_recursive : 0;
	long tree = call(nr_open_tree, at_cwd, (long)text(s->a), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | deep, 0, 0), err, to;

	if (tree < 0)
		return tree;
	err = s->d ? set(tree, 0, s->d, 0) : 0;
	if (err == 0 && s->e)
		err = set(tree, at_recursive, 0, s->e);
	if (err == 0) {
		err = to = place(text(s->b), s->f);
		if (to >= 0) {
			err = of_proc(to) ? -EPERM : attach(tree, to);
			drop(to);
		}
	}
	drop(tree);
	return err;
}

static long device(const struct step *s)
{
	const char *name;
	long above = parent(text(s->a), &name), err;

	if (above < 0)
		return above;
	err = call(nr_mknodat, above, (long)name, s->b, s->c, 0);
	if (err == 0 && (s->d || s->e))
		err = call(nr_fchownat, above, (long)name, s->d, s->e, at_nofollow);
	drop(above);
	return err;
}

static long link(const struct step *s)
{
	const char *name;
	long above = parent(text(s->b), &name), err;

	if (above < 0)
		return above;
	err = call(nr_symlinkat, (long)text(s->a), above, (long)name, 0, 0);
	drop(above);
	return err == -EEXIST ? 0 : err;
}

static long make_directory(const char *path)
{
	long fd = directory(path, 0);

	if (fd < 0)
		return fd;
	drop(fd);
	return 0;
}

/* pivot leaves the host's file system. */
static long pivot(void)
{
	long err = call(nr_fchdir, root, 0, 0, 0, 0);

	if (err == 0)
		err = call(nr_pivot_root, (long)".", (long)".", 0, 0, 0);
	if (err == 0) /* so that nothing is unmounted on the host */
		err = call(nr_mount, 0, (long)".", 0, MS_REC | MS_SLAVE, 0);
	if (err == 0)
		err = call(nr_umount2, (long)".", detach, 0, 0, 0);
	if (err == 0)
		err = call(nr_chdir, (long)"/", 0, 0, 0, 0);
	drop(root);
	root = -1;
	return err;
}

/* is_null tells whether a descriptor is the null device and nothing that is called so. */
static int is_null(long fd)
{
	struct statx s;

	return call(nr_statx, fd, (long)"", at_empty_path, STATX_TYPE, (long)&s) == 0 && (s.stx_mode & device_type) == character &&
	       s.stx_rdev_major == 1 && s.stx_rdev_minor == 3;
}

/* open_null opens the container's null device. */
static long open_null(word flags)
{
	long fd = call(nr_openat, at_cwd, (long)"/dev/null", O_NOFOLLOW | O_CLOEXEC | flags, 0, 0);

	if (fd < 0 || is_null(fd))
		return fd;
	drop(fd);
	return -ENODEV;
}

/* own_null puts the container's null device in the place of the host's at the standard descriptors. */
static long own_null(void)
{
	for (long i = 0; i < 3; i++) {
		long fd, err;

		if (!is_null(i))
			continue;
		fd = open_null(O_RDWR);
		if (fd < 0)
			return fd;
		err = call(nr_dup3, fd, i, 0, 0, 0);
		drop(fd);
		if (err < 0)
			return err;
	}
	return 0;
}

/* at opens a path that is to be covered; there need not be one. */
static long at(const char *path)
{
	return call(nr_openat, at_cwd, (long)path, O_PATH | O_CLOEXEC, 0, 0);
}

/* make_read_only makes a whole mount read-only. */
static long make_read_only(const char *path)
{
	long fd = at(path), err = fd;

	if (fd >= 0) {
		err = set(fd, 0, MOUNT_ATTR_RDONLY, 0);
		drop(fd);
	}
	return err;
}

/* freeze makes a path and what is below it read-only. */
static long freeze(const char *path)
{
	long over = at(path), tree, err;

	if (over < 0)
		return over == -ENOENT ? 0 : over;
	err = tree = call(nr_open_tree, over, (long)"", at_empty_path | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | at_recursive, 0, 0);
	if (tree >= 0) {
		err = set(tree, 0, MOUNT_ATTR_RDONLY, 0);
		if (err == 0)
			err = attach(tree, over);
		drop(tree);
	}
	drop(over);
	return err;
}

/* empty makes a file system of one directory. */
static long empty(void)
{
	long fs = call(nr_fsopen, (long)"tmpfs", FSOPEN_CLOEXEC, 0, 0, 0), err = fs;

	if (fs < 0)
		return fs;
	err = call(nr_fsconfig, fs, FSCONFIG_SET_STRING, (long)"source", (long)"tmpfs", 0);
	if (err == 0)
		err = call(nr_fsconfig, fs, FSCONFIG_SET_STRING, (long)"size", (long)"4k", 0);
	if (err == 0)
		err = call(nr_fsconfig, fs, FSCONFIG_SET_STRING, (long)"nr_inodes", (long)"1", 0);
	if (err == 0)
		err = call(nr_fsconfig, fs, FSCONFIG_SET_FLAG, (long)"ro", 0, 0);
	if (err == 0)
		err = call(nr_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
	if (err == 0)
		err = call(nr_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY, 0, 0);
	drop(fs);
	return err;
}

/* cover masks a directory with an empty one, which all of them share. */
static long cover(long over)
{
	long tree, err;

	if (mask < 0) {
		mask = empty();
		return mask < 0 ? mask : attach(mask, over);
	}
	tree = call(nr_open_tree, mask, (long)"", at_empty_path | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, 0, 0);
	if (tree < 0)
		return tree;
	err = attach(tree, over);
	drop(tree);
	return err;
}

/* hide masks a path: a file by the null device, a directory by an empty one. */
static long hide(const char *path)
{
	struct statx s;
	long over = at(path), null, tree, err;

	if (over < 0)
		return over == -ENOENT ? 0 : over;
	err = call(nr_statx, over, (long)"", at_empty_path, STATX_TYPE, (long)&s);
	if (err == 0 && (s.stx_mode & device_type) == directory_type)
		err = cover(over);
	else if (err == 0) {
		err = null = open_null(O_PATH);
		if (null >= 0) {
			err = tree = call(nr_open_tree, null, (long)"", at_empty_path | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, 0, 0);
			if (tree >= 0) {
				err = attach(tree, over);
				drop(tree);
			}
			drop(null);
		}
	}
	drop(over);
	return err;
}

/* keyring gives the container session keys of its own, which its user may search. */
static long keyring(const char *name)
{
	long id = call(nr_keyctl, KEYCTL_JOIN_SESSION_KEYRING, (long)name, 0, 0, 0);

	if (id < 0) /* a kernel without keys has none to keep apart */
		return id == -ENOSYS ? 0 : id;
	return call(nr_keyctl, KEYCTL_SETPERM, id, 0x3f0b0000, 0, 0);
}

/* bound gives up the capabilities that nothing in the container may ever get. */
static long bound(word keep)
{
	for (word c = 0; c < 64; c++) {
		long has = call(nr_prctl, PR_CAPBSET_READ, c, 0, 0, 0), err;

		if (has < 0)
			break;
		if (has == 0 || keep >> c & 1)
			continue;
		err = call(nr_prctl, PR_CAPBSET_DROP, c, 0, 0, 0);
		if (err < 0)
			return err;
	}
	return call(nr_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
}

static long user(const struct step *s)
{
	long err = call(nr_setgroups, s->d, (long)text(s->c), 0, 0, 0);

	if (err == 0)
		err = call(nr_setresgid, s->b, s->b, s->b, 0, 0);
	if (err == 0)
		err = call(nr_setresuid, s->a, s->a, s->a, 0, 0);
	return err;
}

static long capabilities(const struct step *s)
{
	struct __user_cap_header_struct version = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {
		{ s->a, s->b, s->c },
		{ s->a >> 32, s->b >> 32, s->c >> 32 },
	};
	long err = call(nr_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);

	if (err == 0)
		err = call(nr_capset, (long)&version, (long)sets, 0, 0, 0);
	if (err == 0)
		err = call(nr_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (word c = 0; err == 0 && c < 64; c++)
		if (s->d >> c & 1)
			err = call(nr_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0);
	return err;
}

/*
 * workdir enters the working directory, which must be inside the container. Who may not as root, on a
 * network's file system, may as the container's user.
 */
static long workdir(const char *path, word last)
{
	char where[path_max];
	long err;

	if (!arrived) {
		err = call(nr_chdir, (long)path, 0, 0, 0, 0);
		if (err < 0)
			return !last && (err == -EACCES || err == -EPERM) ? 0 : err;
		arrived = 1;
	}
	err = call(nr_getcwd, (long)where, sizeof where, 0, 0, 0);
	return err < 0 ? err : where[0] == '/' ? 0 : -ENOENT;
}

static long filter(const struct step *s)
{
	struct sock_fprog rules = { s->b / sizeof(struct sock_filter), (struct sock_filter *)text(s->a) };

	return call(nr_seccomp, SECCOMP_SET_MODE_FILTER, s->c, (long)&rules, 0, 0);
}

/* list makes an array of strings of one of offsets that ends with 0. */
static const char **list(word offset)
{
	word *at = (word *)text(offset);

	for (word i = 0; at[i]; i++)
		at[i] = (word)text(at[i]);
	return (const char **)at;
}

/* usable tells whether a file can be executed, as far as can be told before. */
static long usable(const char *path)
{
	struct statx s;
	long err = call(nr_statx, at_cwd, (long)path, 0, STATX_TYPE, (long)&s);

	if (err == 0 && (s.stx_mode & device_type) == directory_type)
		err = -EISDIR;
	if (err == 0)
		err = call(nr_faccessat2, at_cwd, (long)path, executable, at_eaccess, 0);
	return err;
}

/* candidate finds the first of the files that can be executed. */
static const char *candidate(const char **files)
{
	for (; *files; files++)
		if (usable(*files) == 0)
			return *files;
	return 0;
}

/* complain writes what came of the execution where the container's user looks for it. */
static void complain(const char *path, long err)
{
	const char *reason = err == -ENOEXEC  ? ": exec format error\n"
			     : err == -EACCES ? ": permission denied\n"
			     : err == -ENOENT ? ": no such file or directory\n"
					      : ": cannot be executed\n";

	call(nr_write, 2, (long)"exec ", 5, 0, 0);
	call(nr_write, 2, (long)path, length(path), 0, 0);
	call(nr_write, 2, (long)reason, length(reason), 0, 0);
}

/*
 * become_program executes a file, behind a filter that need not allow what comes before. It returns when the
 * filter cannot be had; that the file cannot be executed is for the container's user to see.
 */
static long become_program(const struct step *s, const char *path)
{
	long err;

	call(nr_close_range, peer, ~0U, CLOSE_RANGE_CLOEXEC, 0, 0);
	if (s->d) {
		struct step last = { 0, s->d, s->e, s->f, 0, 0, 0 };

		err = filter(&last);
		if (err < 0)
			return err;
	}
	err = call(nr_execve, (long)path, (long)list(s->b), (long)list(s->c), 0, 0);
	complain(path, err);
	leave(255);
}

/* execute waits for the word to go on, and becomes the container's program. */
static long execute(const struct step *s)
{
	const char *path = candidate(list(s->a));
	char go;

	if (!path)
		return -ENOENT;
	tell(-1, 0);
	take(&go, 1);
	become_program(s, path);
	leave(1);
}

/* execute_at_once is execute for a process beside the first: the end of the connection is the answer. */
static long execute_at_once(const struct step *s)
{
	const char *path = candidate(list(s->a));

	return path ? become_program(s, path) : -ENOENT;
}

static long carry_out(const struct step *s)
{
	switch (s->op) { /* the numbers are those of oci/program.go */
	case 1: return enter_root(text(s->a), s->b);
	case 2: return mount_new(s);
	case 3: return bind(s);
	case 4: return device(s);
	case 5: return link(s);
	case 6: return pivot();
	case 7: return own_null();
	case 8: return make_read_only(text(s->a));
	case 9: return freeze(text(s->a));
	case 10: return hide(text(s->a));
	case 11: return keyring(text(s->a));
	case 12: return bound(s->a);
	case 13: return user(s);
	case 14: return capabilities(s);
	case 15: return workdir(text(s->a), s->b);
	case 16: return filter(s);
	case 17: return call(nr_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	case 18: return call(nr_umask, s->a, 0, 0, 0, 0) < 0 ? -EINVAL : 0;
	case 19: return call(nr_unshare, s->a, 0, 0, 0, 0);
	case 20: return execute(s);
	case 21: return make_directory(text(s->a));
	case 22: return call(nr_setns, s->a, s->b, 0, 0, 0);
	case 23: return execute_at_once(s);
	}
	return -ENOSYS;
}

/*
 * heed undoes the ignoring of signals that somebody on the host, such as nohup, has handed down; the two
 * after the classical ones are the C library's.
 */
static void heed(void)
{
	word by_default[4] = { 0, 0, 0, 0 }; /* a struct sigaction */

	for (word signal = 1; signal <= 64; signal++)
		if (signal < 32 || signal > 33)
			call(nr_sigaction, signal, (long)by_default, 0, sizeof(word), 0);
}

__attribute__((noreturn, used)) void run(const word *stack)
{
	const struct step *s;

	(void)stack;
	/* Who is in the container already is to see nothing of what this process has from the host. */
	call(nr_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	heed();
	take(&program.size, sizeof program.size);
	if (program.size > most + sizeof program.steps)
		leave(1);
	take(&program.steps, program.size);
	s = (const struct step *)program.body;
	for (word i = 0; i < program.steps; i++) {
		long err = carry_out(&s[i]);

		if (err < 0) {
			tell(i, -err);
			leave(1);
		}
	}
	leave(1);
}
