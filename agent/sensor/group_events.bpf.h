/* SPDX-License-Identifier: Apache-2.0 */
/* Telling of control groups: made, empty, gone, and left by who belongs to a container. */
#ifndef GABION_GROUP_EVENTS_BPF_H
#define GABION_GROUP_EVENTS_BPF_H

static __always_inline void send_group(__u16 type, __u64 id, __u64 parent_id, __u32 pid, struct cgroup_policy *of_cgroup,
				 const char *path)
{
	struct cgroup_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count_lost(0);
		return;
	}
	__builtin_memset(event, 0, __builtin_offsetof(struct cgroup_event, path));
	event->event.frame.length = sizeof(*event);
	event->event.frame.type = type;
	event->event.frame.version = GABION_WIRE_VERSION;
	event->event.ktime_ns = bpf_ktime_get_boot_ns();
	event->event.cgroup_id = id;
	event->event.slot = of_cgroup->slot;
	event->parent_id = parent_id;
	event->flags = of_cgroup->flags;
	event->creator_pid = pid;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	if (bpf_probe_read_kernel_str(event->path, sizeof(event->path), path) < 0)
		event->path[0] = 0;
	/* Rare, and holding a new container is a matter of microseconds. */
	bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
}

/* True for a group of the process's own container: its own, or one below. */
static __always_inline bool is_within(const struct contained_process *process, __u64 group_id)
{
	struct cgroup_policy *target = bpf_map_lookup_elem(&cgroups, &group_id);

	return target && target->container_id == process->container_id;
}

/* Once for each process, and never in the room that new containers need. */
static __always_inline void tell_left(struct contained_process *process, __u64 group_id, __u32 pid, const char *path)
{
	__u64 own = process->container_id;
	struct cgroup_policy *mine = bpf_map_lookup_elem(&cgroups, &own);

	if (!mine || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >= RING_BYTES / 2)
		return;
	process->has_left = 1;
	send_group(GABION_CGROUP_LEFT, own, group_id, pid, mine, path);
}

#endif
