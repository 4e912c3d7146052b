/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the end of each system call looks at first, kept with the control group itself: a process of a group without it
 * pays no look-up at all, and a call that was seen before and does nothing more is done with.
 */
#ifndef GABION_GROUP_CALLS_BPF_H
#define GABION_GROUP_CALLS_BPF_H

#include "quiet_calls.h"

struct group_calls {
	__u32 flags; /* of the group's policy */
	__u32 reserved;
	__u64 seen[2 * GABION_SYSCALLS / 64]; /* since the group was bound; binding it again forgets them */
};

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, 1 /* BPF_F_NO_PREALLOC */);
	__type(key, int);
	__type(value, struct group_calls);
} group_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, 1 << 10 /* BPF_F_MMAPABLE: by the loader */);
	__uint(max_entries, GABION_QUIET_PLACES);
	__type(key, __u32);
	__type(value, struct quiet_calls);
} quiet_calls SEC(".maps");

#endif
