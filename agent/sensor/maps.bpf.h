/* SPDX-License-Identifier: Apache-2.0 */
/* Maps that all program groups share; the loader makes each once and gives it to every object. */
#ifndef GABION_MAPS_BPF_H
#define GABION_MAPS_BPF_H

struct cgroup_policy {
	__u32 slot;
	__u32 flags;
	__u64 container_id; /* control group of the container, also for nested groups */
	__u32 device;	    /* of the container's root file system: another overlay is not its image */
	__u32 counters;	    /* where those of its entries begin; 0 where there was no room for them */
};

struct cgroup_counts {
	__u64 seen;
	__u64 allowed;
	__u64 emitted;
	__u64 lost;
	__u64 killed;	 /* or denied */
	__u64 throttled; /* part of `lost` */
};

struct counts_key {
	__u64 container_id;
	__u64 section;
};

/* Control group id to what it is. An id without entry is outside the watched tree: nothing is done for it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct cgroup_policy);
	__uint(map_flags, 1 /* BPF_F_NO_PREALLOC */);
} cgroups SEC(".maps");

/* For each CPU: every event counts twice, and a counter that two CPUs write to costs each of them 100 ns. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct counts_key);
	__type(value, struct cgroup_counts);
	__uint(map_flags, 1 /* BPF_F_NO_PREALLOC */);
} counts SEC(".maps");

#define RING_BYTES (4 * 1024 * 1024) /* 50 ms of the largest events at 40,000 a second */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

/* For what comes in masses: files, system calls and contacts cannot push out an exec. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} bulk SEC(".maps");

/* 1 while the loader sleeps; it maps this, so that saying so costs it nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, 1 << 10 /* BPF_F_MMAPABLE */);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sleeping SEC(".maps");

/*
 * Waking the loader takes 12 to 16 µs of who is watched, so it is left to look by itself while events come. The first
 * after a pause wakes it: looking all the time, for nothing, would take more.
 */
static __always_inline __u64 how_to_tell(void)
{
	__u32 zero = 0;
	__u64 *is_sleeping = bpf_map_lookup_elem(&sleeping, &zero);

	if (!is_sleeping || !*is_sleeping)
		return BPF_RB_NO_WAKEUP;
	*is_sleeping = 0;
	return BPF_RB_FORCE_WAKEUP;
}

struct totals {
	__u64 lost;
	__u64 decide_ns;
	__u64 decide_count;
	__u64 decide_buckets[GABION_BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

/* How often entries let something through; CPUs write to stripes that lie far apart. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GABION_COUNTERS * GABION_COUNTER_STRIPES);
	__type(key, __u32);
	__type(value, __u64);
} entry_counts SEC(".maps");

/* What lists let through, and when it was last told. */
struct told_key {
	__u64 container_id;
	__u64 what;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct told_key);
	__type(value, __u64);
} told SEC(".maps");

struct told_budget {
	__u64 second;
	__u64 used;
};

/* One for each kind of event: noise of one kind does not silence another. */
#define TOLD_KINDS 32

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TOLD_KINDS);
	__type(key, __u32);
	__type(value, struct told_budget);
} told_budgets SEC(".maps");

static __always_inline struct cgroup_counts *counts_of(__u64 container_id, __u64 section)
{
	struct counts_key key = { .container_id = container_id, .section = section };
	struct cgroup_counts zero = {};
	struct cgroup_counts *found = bpf_map_lookup_elem(&counts, &key);

	if (found)
		return found;
	bpf_map_update_elem(&counts, &key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(&counts, &key);
}

/* Every event that could not be kept is counted for its container and in total, here and nowhere else. */
static __always_inline void count_lost(struct cgroup_counts *of_container)
{
	__u32 zero = 0;
	struct totals *all = bpf_map_lookup_elem(&totals, &zero);

	if (all)
		all->lost++;
	if (of_container)
		__sync_fetch_and_add(&of_container->lost, 1);
}

/* What could not even be looked at: it was seen, and lost. */
static __always_inline void count_unseen(struct cgroup_counts *of_container)
{
	if (of_container)
		__sync_fetch_and_add(&of_container->seen, 1);
	count_lost(of_container);
}

#endif
