// SPDX-License-Identifier: Apache-2.0
/* Processes: what containers execute, decided before the first instruction of the new program. */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "gabion_wire.h"
#include "gabion_hash.h"
#include "maps.bpf.h"
#include "path_walk.bpf.h"
#include "actor.bpf.h"
#include "policy.bpf.h"
#include "act.bpf.h"
#include "text_hash.bpf.h"
#include "contained.bpf.h"
#include "exec_hash.bpf.h"
#include "exec_decide.bpf.h"
#include "exec_read.bpf.h"
#include "group_events.bpf.h"

char LICENSE[] SEC("license") = "GPL";

/* Processes whose exec was sent, so that their end is sent too. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64); /* start time */
} sent_processes SEC(".maps");

static __always_inline void apply(struct exec_scratch *s, __u32 action, struct cgroup_counts *of_container)
{
	__u8 outcome = GABION_ASKED;

	if (action == GABION_AUDIT)
		outcome = GABION_AUDITED;
	if (action == GABION_PREVENT || action == GABION_BLOCK) {
		bpf_send_signal(SIGKILL);
		outcome = GABION_KILLED;
		if (of_container)
			__sync_fetch_and_add(&of_container->killed, 1);
	}
	if (action == GABION_BLOCK) {
		outcome = GABION_KILLED_CONTAINER;
		kill_first_process(s->cgroup_flags, s->event.pid_ns);
	}
	s->event.event.frame.outcome = outcome;
}

static __always_inline void send(struct exec_scratch *s, struct cgroup_counts *of_container)
{
	__u32 pid = s->event.pid;
	__u64 start = s->event.start_ns;
	__u64 length = __builtin_offsetof(struct exec_event, argv) + ((s->event.argv_length + 7) & ~7ULL);
	s->event.event.frame.length = length;
	if (length > sizeof(s->event) || !emit(&events, &s->event.event, length, of_container))
		return;
	bpf_map_update_elem(&sent_processes, &pid, &start, BPF_ANY);
}

/* The runtime on its way into the container: runc runs itself again from memory before it has the container's mounts. */
static __always_inline bool is_runtime_clone(const struct exec_event *event)
{
	__u64 expected[2], path[2];

	__builtin_memcpy(expected, "memfd:runc_clone", sizeof(expected));
	__builtin_memcpy(path, event->path, sizeof(path));
	return path[0] == expected[0] && path[1] == expected[1];
}

/* What the slot says where no entry does, looked up once. Without a slot everything is asked. */
static __always_inline void take_defaults(struct exec_scratch *s)
{
	__u32 slot = s->event.event.slot;
	struct slot_defaults *defaults = bpf_map_lookup_elem(&slots, &slot);

	s->has_slot = defaults != 0;
	/* Looking at streams touches memory that nothing else here does: only where a detector asks for it. */
	s->stream = GABION_ALLOW;
	if (!defaults)
		return;
	s->kinds = defaults->kinds;
	__builtin_memcpy(s->listed, defaults->listed, sizeof(s->listed));
	s->image = defaults->actions[GABION_DEFAULT_IMAGE];
	s->foreign = defaults->actions[GABION_DEFAULT_FOREIGN];
	s->stream = defaults->actions[GABION_DEFAULT_STREAM];
	s->setuid = defaults->actions[GABION_DEFAULT_SETUID];
}

/*
 * Why this hook: it runs in the new program's task after the point of no return and before its first instruction, and
 * works wherever BTF is there. A kill here leaves no user instruction executed.
 */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(handle_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u64 cgroup_id = bpf_get_current_cgroup_id();
	struct cgroup_policy *of_cgroup = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	struct cgroup_counts *of_container;
	struct exec_scratch *s;
	__u64 begin, uid_gid;
	__u32 mount_ns, action;
	bool is_outside;

	if (!of_cgroup || !(of_cgroup->flags & (GABION_CGROUP_PENDING | GABION_CGROUP_BOUND)))
		return 0;
	begin = is_measuring ? bpf_ktime_get_ns() : 0;
	s = scratch();
	if (!s)
		return 0;
	s->event.flags = 0;
	if (!read_texts(s, task, bprm))
		return 0;
	mount_ns = task->nsproxy->mnt_ns->ns.inum;
	is_outside = mount_ns == host_mount_ns && !(of_cgroup->flags & GABION_CGROUP_HOST_MOUNTS);
	/* Who has run a program of the container's before is no runtime on its way in, whatever it calls its own. */
	if (is_outside && !contained_of(task->tgid) && is_runtime_clone(&s->event))
		return 0;
	of_container = counts_of(of_cgroup->container_id, SECTION_PROCESS);
	if (of_container)
		__sync_fetch_and_add(&of_container->seen, 1);

	begin_event(&s->event.event, GABION_EXEC, 0, of_cgroup);
	s->cgroup_flags = of_cgroup->flags;
	s->event.content = 0;
	s->event.input_peer = 0;
	s->event.mount_ns = mount_ns;
	uid_gid = bpf_get_current_uid_gid();
	s->event.pid = task->tgid;
	s->event.uid = uid_gid;
	s->event.gid = uid_gid >> 32;
	read_file(&s->event, bprm->file, of_cgroup->device);
	action = GABION_ASK;
	/* Also before its policy is in place, where a hold has ended early. */
	if (!is_outside && !(of_cgroup->flags & GABION_CGROUP_BOUND))
		mark_contained(s->event.pid, 0, of_cgroup->container_id);
	/* In the host's mounts paths mean other files: who got there is told, and judged by the agent. */
	if (is_outside)
		s->event.flags |= GABION_EXEC_HOST_MOUNTS;
	if (of_cgroup->flags & GABION_CGROUP_BOUND && !is_outside) {
		hash_exec_path();
		mark_contained(s->event.pid, s->path.is_complete && !(s->event.flags & GABION_EXEC_PATH_TRUNCATED) ?
						     s->path.full : 0, of_cgroup->container_id);
		hash_exec_filename();
		hash_exec_name();
		take_defaults(s);
		if (s->stream != GABION_ALLOW)
			read_streams(&s->event, task);
		if (!s->name.is_complete)
			s->event.flags |= GABION_EXEC_NAME_TRUNCATED;
		action = decide_exec();
	}
	if (action == GABION_ALLOW) {
		if (of_container)
			__sync_fetch_and_add(&of_container->allowed, 1);
		count_entry(of_cgroup, s->event.event.entry);
	} else {
		read_task(&s->event, task);
		read_arguments(&s->event, task->mm);
		apply(s, action, of_container);
		send(s, of_container);
	}
	if (is_measuring) {
		__u32 zero = 0;
		struct totals *all = bpf_map_lookup_elem(&totals, &zero);

		if (all) {
			__u64 taken = bpf_ktime_get_ns() - begin;
			__u64 bucket = taken >> 6;

			all->decide_ns += taken;
			all->decide_count++;
			if (bucket >= GABION_BUCKETS)
				bucket = GABION_BUCKETS - 1;
			/* so that clang keeps the mask, which is what the verifier sees */
			asm volatile("" : "+r"(bucket));
			all->decide_buckets[bucket & (GABION_BUCKETS - 1)]++;
		}
	}
	return 0;
}

/* Why this hook: the child has its own storage here and has not run yet. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(handle_fork, struct task_struct *parent, struct task_struct *child)
{
	struct contained_process *above, *born;
	struct cgroup *group = child->cgroups->dfl_cgrp;
	__u64 id;

	if (child->pid != child->tgid) /* a thread */
		return 0;
	above = contained_of(parent->tgid);
	if (!above)
		return 0;
	if (!mark_contained(child->pid, above->exe_hash, above->container_id)) {
		__u64 cgroup_id = bpf_get_current_cgroup_id();
		struct cgroup_policy *policy = bpf_map_lookup_elem(&cgroups, &cgroup_id);

		if (policy)
			count_unseen(counts_of(policy->container_id, SECTION_FILES));
	}
	/* Who may move processes may have one born elsewhere: that is no move. */
	if (group == parent->cgroups->dfl_cgrp)
		return 0;
	id = group->kn->id;
	born = contained_of(child->pid);
	if (born && !is_within(born, id))
		tell_left(born, id, child->pid, group->kn->name);
	return 0;
}

/* Why this hook: once for each thread, with the exit code set; only the end of processes whose exec was sent is told. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(handle_exit, struct task_struct *task)
{
	__u32 pid = BPF_CORE_READ(task, tgid);
	__u64 *start, cgroup_id;
	struct cgroup_policy *of_cgroup;
	struct exit_event *event;

	/* The last thread, which need not be the first one: a process goes on without that. */
	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	bpf_map_delete_elem(&contained, &pid);
	start = bpf_map_lookup_elem(&sent_processes, &pid);
	if (!start)
		return 0;
	cgroup_id = bpf_get_current_cgroup_id();
	of_cgroup = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	if (of_cgroup) {
		/* The last of the ring is for new control groups. */
		event = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < RING_BYTES - GROUPS_RESERVE ?
				bpf_ringbuf_reserve(&events, sizeof(*event), 0) :
				0;
		if (event) {
			__builtin_memset(event, 0, sizeof(*event));
			event->event.frame.length = sizeof(*event);
			event->event.frame.type = GABION_EXIT;
			event->event.frame.version = GABION_WIRE_VERSION;
			event->event.ktime_ns = bpf_ktime_get_boot_ns();
			event->event.cgroup_id = of_cgroup->container_id;
			event->event.slot = of_cgroup->slot;
			event->start_ns = *start;
			event->pid = pid;
			event->exit_code = BPF_CORE_READ(task, exit_code);
			bpf_ringbuf_submit(event, how_to_tell());
		} else {
			count_lost(0); /* an end is no event of the section */
		}
	}
	bpf_map_delete_elem(&sent_processes, &pid);
	return 0;
}
