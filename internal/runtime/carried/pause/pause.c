/*
 * pause: the first process of a pod sandbox. It holds the pod's namespaces, reaps the orphans that
 * land on it when the pod shares one process namespace, and exits on SIGTERM or SIGINT.
 *
 * It is linked without libc (a few KiB, no page of heap): the signals are blocked and collected with
 * rt_sigtimedwait, so that no handler, and with it no architecture-specific restorer, is needed. A
 * blocked signal is kept for process 1 of a namespace too, where an unblocked default one is dropped.
 */
typedef unsigned long word;

#if defined(__x86_64__)
enum { nr_sigprocmask = 14, nr_wait4 = 61, nr_exit_group = 231, nr_sigtimedwait = 128 };
static long call(long n, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n and $-16,%rsp\n call run\n");
#elif defined(__aarch64__)
enum { nr_sigprocmask = 135, nr_wait4 = 260, nr_exit_group = 94, nr_sigtimedwait = 137 };
static long call(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
__asm__(".globl _start\n_start:\n mov x29, xzr\n bl run\n");
#else
#error "pause.c: add the system call convention of this architecture"
#endif

enum { sig_int = 2, sig_term = 15, sig_chld = 17, how_block = 0, wnohang = 1 };
#define BIT(sig) (1UL << ((sig) - 1))

__attribute__((noreturn, used)) void run(void)
{
	word set = BIT(sig_int) | BIT(sig_term) | BIT(sig_chld);

	call(nr_sigprocmask, how_block, (long)&set, 0, sizeof set);
	for (;;) {
		long sig = call(nr_sigtimedwait, (long)&set, 0, 0, sizeof set);

		if (sig == sig_int || sig == sig_term)
			for (;;)
				call(nr_exit_group, 0, 0, 0, 0);
		if (sig == sig_chld)
			while (call(nr_wait4, -1, 0, wnohang, 0) > 0)
				;
	}
}
