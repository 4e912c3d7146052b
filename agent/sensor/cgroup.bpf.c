// SPDX-License-Identifier: Apache-2.0
/* Control groups: how new containers are noticed before anything runs in them, and when they are empty or gone. */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "gabion_wire.h"
#include "maps.bpf.h"
#include "group_calls.bpf.h"
#include "contained.bpf.h"
#include "group_events.bpf.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline __u64 id_of(struct cgroup *group)
{
	return BPF_CORE_READ(group, kn, id);
}

/* Hierarchies of cgroup v1 number their groups for themselves: the same number there is another group. */
static __always_inline bool is_unified(struct cgroup *group)
{
	return BPF_CORE_READ(group, root, hierarchy_id) == 0;
}

static __always_inline __u64 parent_id_of(struct cgroup *group)
{
	struct cgroup_subsys_state *above = BPF_CORE_READ(group, self.parent);

	if (!above)
		return 0;
	return id_of((void *)((char *)above - bpf_core_field_offset(struct cgroup, self)));
}

static __always_inline __u32 current_pid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

/*
 * Why this hook: whoever can write to control groups can leave its own, and what it does from then on is seen by nobody.
 * A runtime on its way in is not the container's yet, and groups below the container's are its own.
 */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(handle_attach, struct cgroup *group, const char *path, struct task_struct *task, bool is_whole)
{
	struct contained_process *process = contained_of(BPF_CORE_READ(task, tgid));
	__u64 id;

	if (!process || process->has_left || !is_unified(group))
		return 0;
	id = id_of(group);
	if (!is_within(process, id))
		tell_left(process, id, BPF_CORE_READ(task, tgid), path);
	return 0;
}

static long forget_quiet_call(__u32 place, void *unused)
{
	struct quiet_calls *quiet = bpf_map_lookup_elem(&quiet_calls, &place);

	if (quiet)
		__sync_fetch_and_add(&quiet->epoch, 1);
	return 0;
}

static __always_inline void forget_quiet_calls(void)
{
	bpf_loop(GABION_QUIET_PLACES, forget_quiet_call, 0, 0);
}

/* Why this hook: it runs before the first process can be put into the group, so inheritance has no race. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(handle_mkdir, struct cgroup *group, const char *path)
{
	__u64 id, parent_id;
	struct cgroup_policy *above, mine = {};

	if (!is_unified(group))
		return 0;
	parent_id = parent_id_of(group);
	above = bpf_map_lookup_elem(&cgroups, &parent_id);
	if (!above)
		return 0;
	id = id_of(group);
	if (above->flags & GABION_CGROUP_BOUND) {
		mine = *above;
		mine.flags |= GABION_CGROUP_NESTED;
	} else {
		mine.flags = GABION_CGROUP_SCOPE | GABION_CGROUP_PENDING;
		mine.container_id = id;
	}
	if (bpf_map_update_elem(&cgroups, &id, &mine, BPF_ANY) < 0)
		count_lost(counts_of(mine.container_id, SECTION_PROCESS));
	if (mine.flags & GABION_CGROUP_NESTED) {
		struct group_calls *calls = bpf_cgrp_storage_get(&group_calls, group, 0, 1 /* create */);

		if (calls)
			calls->flags = mine.flags;
		else
			count_lost(counts_of(mine.container_id, SECTION_SYSCALLS));
		forget_quiet_calls(); /* of a group that was at this address before */
	}
	/* A group inside a container needs nothing of the agent. */
	if (mine.flags & GABION_CGROUP_NESTED)
		return 0;
	send_group(GABION_CGROUP_NEW, id, parent_id, current_pid(), &mine, path);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(handle_rmdir, struct cgroup *group, const char *path)
{
	__u64 id = id_of(group);
	struct cgroup_policy *mine = is_unified(group) ? bpf_map_lookup_elem(&cgroups, &id) : 0;

	if (!mine)
		return 0;
	if (!(mine->flags & GABION_CGROUP_NESTED))
		send_group(GABION_CGROUP_GONE, id, 0, current_pid(), mine, path);
	bpf_map_delete_elem(&cgroups, &id);
	return 0;
}

/* Why this hook: a stopped container keeps its group until it is deleted, but the last process leaving is told here. */
SEC("tp_btf/cgroup_notify_populated")
int BPF_PROG(handle_populated, struct cgroup *group, const char *path, int is_populated)
{
	__u64 id = id_of(group);
	struct cgroup_policy *mine = is_unified(group) ? bpf_map_lookup_elem(&cgroups, &id) : 0;

	if (!mine || is_populated || mine->flags & GABION_CGROUP_NESTED || !(mine->flags & (GABION_CGROUP_BOUND | GABION_CGROUP_PENDING)))
		return 0;
	send_group(GABION_CGROUP_EMPTY, id, 0, current_pid(), mine, path);
	return 0;
}
