/* SPDX-License-Identifier: Apache-2.0 */
/* Sending what was seen, within what a container may send, and ending what must end. */
#ifndef GABION_ACT_BPF_H
#define GABION_ACT_BPF_H

#define SIGKILL 9

const volatile __u32 host_mount_ns;
const volatile __u32 host_pid_ns;
const volatile bool has_container_kill;
const volatile bool is_measuring;
/* What one container may send: more is a flood, which must not take the room of the others. */
const volatile __u64 events_per_second = 25000;
const volatile __u64 events_burst = 50000;
/* Of those that were refused or killed for, which go before all others: more say nothing new. */
#define REFUSED_PER_SECOND 1000
#define REFUSED_BURST 2000

/* Both since 6.13; without them a container is ended by the loader alone. */
extern struct task_struct *bpf_task_from_vpid(__s32 vpid) __ksym __weak;
extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type, __u64 value) __ksym __weak;
extern void bpf_task_release(struct task_struct *task) __ksym __weak;

static __always_inline __u8 outcome_of(__u32 action)
{
	return action == GABION_AUDIT ? GABION_AUDITED : GABION_ASKED;
}

struct bucket {
	__u64 at_ns;
	__u64 tokens;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct bucket);
} buckets SEC(".maps");

#define EVENT_KINDS 32

/* True where the agent is to end the container for what happened. */
static __always_inline bool ends_container(__u8 outcome)
{
	return outcome == GABION_KILLED_CONTAINER || outcome == GABION_DENIED_CONTAINER || outcome == GABION_ENDED_CONTAINER;
}

/* Racing CPUs may let a few more through; what is refused is counted exactly. */
static __always_inline bool take_token(__u64 container_id, __u16 type, __u8 outcome)
{
	bool is_refused = outcome >= GABION_KILLED;
	/* Each kind of event has buckets of its own: noise of one kind does not silence another, nor what is only refused that
	 * for which the container has to end. */
	__u64 class = ends_container(outcome) ? 2 : is_refused;
	__u64 key = (container_id << 2 | class) * EVENT_KINDS + (type & (EVENT_KINDS - 1));
	__u64 per_second = is_refused ? REFUSED_PER_SECOND : events_per_second;
	__u64 burst = is_refused ? REFUSED_BURST : events_burst;
	__u64 now = bpf_ktime_get_ns(), gained;
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &key);
	struct bucket full = { .at_ns = now, .tokens = burst };

	if (!bucket) {
		bpf_map_update_elem(&buckets, &key, &full, BPF_ANY);
		return true;
	}
	gained = (now - bucket->at_ns) * per_second / 1000000000ULL;
	if (gained > 0 && now > bucket->at_ns) {
		bucket->at_ns = now;
		bucket->tokens = bucket->tokens + gained > burst ? burst : bucket->tokens + gained;
	}
	if (bucket->tokens == 0)
		return false;
	bucket->tokens--;
	return true;
}

/*
 * Half of the ring is for programs that start and for what was refused: the first burst of somebody's flood must not push
 * out what another container runs. A little is for new control groups, which do not come by here.
 */
#define GROUPS_RESERVE (256 * 1024)

static __always_inline bool has_room(void *ring, const struct gabion_event *event)
{
	bool is_first = event->frame.type == GABION_EXEC || event->frame.outcome >= GABION_KILLED;

	if (ring != &events)
		return true;
	return bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) < (is_first ? RING_BYTES - GROUPS_RESERVE : RING_BYTES / 2);
}

/* False where it could not be sent; then it has been counted as lost. */
static __always_inline bool emit(void *ring, struct gabion_event *event, __u64 length, struct cgroup_counts *counts)
{
	__u64 how = event->frame.outcome >= GABION_KILLED ? BPF_RB_FORCE_WAKEUP : how_to_tell();

	/* Here and not where it begins: most are let through, and the clock takes longer than a look-up. */
	event->ktime_ns = bpf_ktime_get_boot_ns();
	/* The first that was refused or killed for is always told: somebody may still have to be stopped for it. */
	if (!take_token(event->cgroup_id, event->frame.type, event->frame.outcome)) {
		if (counts)
			__sync_fetch_and_add(&counts->throttled, 1);
		count_lost(counts);
		return false;
	}
	if (!has_room(ring, event) || bpf_ringbuf_output(ring, event, length, how) < 0) {
		count_lost(counts);
		return false;
	}
	if (counts)
		__sync_fetch_and_add(&counts->emitted, 1);
	return true;
}

static __always_inline void begin_event(struct gabion_event *event, __u16 type, __u32 length,
					const struct cgroup_policy *of_cgroup)
{
	event->frame.length = length;
	event->frame.type = type;
	event->frame.version = GABION_WIRE_VERSION;
	event->frame.outcome = GABION_ASKED;
	event->cgroup_id = of_cgroup->container_id;
	event->slot = of_cgroup->slot;
	event->entry = 0;
}

/*
 * INVARIANT: only for control groups flagged as owning their pid namespace, so that pid 1 is this container's; never in
 * the host's pid namespace, whatever the flag says; and only where the current task is the container's.
 */
static __always_inline void kill_first_process(__u32 cgroup_flags, __u32 pid_ns)
{
	struct task_struct *first;

	if (!(cgroup_flags & GABION_CGROUP_OWN_PIDNS) || pid_ns == host_pid_ns || host_pid_ns == 0)
		return;
	if (!has_container_kill || !bpf_task_from_vpid || !bpf_send_signal_task)
		return;
	first = bpf_task_from_vpid(1);
	if (!first)
		return;
	bpf_send_signal_task(first, SIGKILL, PIDTYPE_TGID, 0);
	bpf_task_release(first);
}

#endif
