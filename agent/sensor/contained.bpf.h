/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tasks are the container's own: those that ran a program inside it, and their children. A runtime on its way in
 * has the container's control group, but its files and system calls are not the container's.
 */
#ifndef GABION_CONTAINED_BPF_H
#define GABION_CONTAINED_BPF_H

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, 1 /* BPF_F_NO_PREALLOC */);
	__type(key, int);
	__type(value, __u32);
} contained SEC(".maps");

static __always_inline void mark_contained(struct task_struct *task)
{
	__u32 yes = 1;

	bpf_task_storage_get(&contained, task, &yes, 1 /* BPF_LOCAL_STORAGE_GET_F_CREATE */);
}

static __always_inline bool is_contained(struct task_struct *task)
{
	return bpf_task_storage_get(&contained, task, 0, 0) != 0;
}

#endif
