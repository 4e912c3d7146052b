/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the end of most system calls comes to is decided by this alone: calls of a control group that were seen before and
 * do nothing more. One processor writes to a place, and its lines are the only ones that are touched; the loader and the
 * program that sees new groups only raise epochs.
 */
#ifndef GABION_QUIET_CALLS_H
#define GABION_QUIET_CALLS_H

#define GABION_QUIET_CPUS 256 /* processors with a higher number do without */
#define GABION_QUIET_GROUPS 4 /* of one processor, by address */
#define GABION_QUIET_PLACES (GABION_QUIET_CPUS * GABION_QUIET_GROUPS)

struct quiet_calls {
	__u64 group;	/* address of the control group */
	__u32 epoch;	/* raised where what a group's calls mean may have changed */
	__u32 of_epoch; /* when what follows was noted */
	__u64 quiet[GABION_SYSCALLS / 64]; /* seen before, and do nothing more */
	__u64 seen[GABION_SYSCALLS / 64];  /* seen before */
	__u64 reserved[6];
};

_Static_assert(sizeof(struct quiet_calls) == 192, "whole cache lines");

#endif
