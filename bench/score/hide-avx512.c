/*
 * Makes a process and its children believe that the CPU has AVX2 and nothing newer: no AVX-512, no AMX, no
 * VNNI. Both sides of bench:score choose their kernels by CPUID.
 *
 *   gcc -O2 -shared -fPIC -o hide-avx512.so bench/score/hide-avx512.c -ldl
 *   LD_PRELOAD=$PWD/hide-avx512.so npm run bench:score -- ...
 *
 * Linux on x86-64, with the flag cpuid_fault in /proc/cpuinfo (Intel). CPUID then raises SIGSEGV, and the
 * handler gives the answer with these bits cleared (Intel SDM, volume 2, CPUID, leaf 7).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

typedef int (*sigaction_t)(int, const struct sigaction *, struct sigaction *);

static sigaction_t real_sigaction;
static struct sigaction others; /* what the program itself set for SIGSEGV */

static long set_cpuid(long allowed)
{
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(SYS_arch_prctl), "D"(ARCH_SET_CPUID), "S"(allowed)
			 : "rcx", "r11", "memory");
	return result;
}

static void hide(unsigned leaf, unsigned sub, unsigned r[4])
{
	if (leaf == 7 && sub == 0) {
		/* AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL */
		r[1] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
		/* VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ */
		r[2] &= ~(BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14));
		/* 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, FP16, AMX-TILE, AMX-INT8 */
		r[3] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
	}
	if (leaf == 7 && sub == 1) {
		r[0] &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, BF16, AMX-FP16, AVX-IFMA */
		r[3] &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19)); /* VNNI-INT8, NE-CONVERT, AMX-COMPLEX, VNNI-INT16, AVX10 */
	}
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	const unsigned char *at = (const unsigned char *)g[REG_RIP];
	if (info->si_code == SI_KERNEL && at[0] == 0x0f && at[1] == 0xa2) {
		unsigned leaf = g[REG_RAX], sub = g[REG_RCX], r[4];
		set_cpuid(1);
		__asm__ volatile("cpuid"
				 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
				 : "0"(leaf), "2"(sub));
		set_cpuid(0);
		hide(leaf, sub, r);
		g[REG_RAX] = r[0];
		g[REG_RBX] = r[1];
		g[REG_RCX] = r[2];
		g[REG_RDX] = r[3];
		g[REG_RIP] += 2;
		return;
	}
	if ((others.sa_flags & SA_SIGINFO) && others.sa_sigaction) {
		others.sa_sigaction(signal, info, context);
		return;
	}
	if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN) {
		others.sa_handler(signal);
		return;
	}
	struct sigaction plain = {.sa_handler = SIG_DFL};
	real_sigaction(signal, &plain, 0);
	raise(signal);
}

/* The program's own handler (Node's) is called for every other fault. */
int sigaction(int signal, const struct sigaction *set, struct sigaction *old)
{
	if (!real_sigaction)
		real_sigaction = (sigaction_t)dlsym(RTLD_NEXT, "sigaction");
	if (signal != SIGSEGV)
		return real_sigaction(signal, set, old);
	if (old)
		*old = others;
	if (set)
		others = *set;
	return 0;
}

__attribute__((constructor)) static void begin(void)
{
	if (!real_sigaction)
		real_sigaction = (sigaction_t)dlsym(RTLD_NEXT, "sigaction");
	struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
	sigemptyset(&fault.sa_mask);
	real_sigaction(SIGSEGV, &fault, 0);
	if (set_cpuid(0))
		perror("CPUID faulting");
}
