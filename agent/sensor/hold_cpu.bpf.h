/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs at sockets and packets may be preempted where the kernel is built so, and a container may see to it that a thread
 * of its own stays away for long: with a few of them it would take all scratches of a processor. Since 6.10 a program can
 * keep its processor while it has one.
 */
#ifndef GABION_HOLD_CPU_BPF_H
#define GABION_HOLD_CPU_BPF_H

extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

/* The loader tries without where a kernel has these, but does not let a program do all that ours do meanwhile. */
const volatile bool may_hold_cpu = true;

static __always_inline void hold_cpu(void)
{
	if (may_hold_cpu && bpf_preempt_disable)
		bpf_preempt_disable();
}

static __always_inline void let_cpu_go(void)
{
	if (may_hold_cpu && bpf_preempt_enable)
		bpf_preempt_enable();
}

#endif
