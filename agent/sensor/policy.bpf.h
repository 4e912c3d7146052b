/* SPDX-License-Identifier: Apache-2.0 */
/* Policy as data: slots with their defaults, hashed entries, prefixes. One slot is one version of one policy. */
#ifndef GABION_POLICY_BPF_H
#define GABION_POLICY_BPF_H

struct policy_key {
	__u32 slot;
	__u32 kind;
	__u64 hash;
};

struct policy_value {
	__u32 action;
	__u32 entry;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
	__uint(map_flags, 1 /* BPF_F_NO_PREALLOC: most of it stays empty */);
} policy SEC(".maps");

struct prefix_key {
	__u32 prefix; /* bits that count, of all that follows */
	__u32 slot;
	__u32 kind;
	__u8 bytes[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__type(key, struct prefix_key);
	__type(value, struct policy_value);
	__uint(map_flags, 1);
} prefixes SEC(".maps");

struct slot_defaults {
	__u64 kinds; /* bit for each kind of entry in use: a look-up costs 35 to 60 ns, a bit nothing */
	__u64 listed[GABION_LISTED_WORDS]; /* bits of the hashes in its lists: most texts are in none */
	__u32 actions[GABION_DEFAULTS];
	__u64 syscalls_allowed[2 * GABION_SYSCALLS / 64];
	__u64 syscalls_denied[2 * GABION_SYSCALLS / 64];
	__u32 intel_slot;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct slot_defaults);
	__uint(map_flags, 1);
} slots SEC(".maps");

#define TOLD_AGAIN_NS (3600 * 1000000000ULL)
#define TOLD_PER_SECOND 64

/* An act goes by untold because an entry names it. */
static __always_inline void count_entry(const struct cgroup_policy *policy, __u32 entry)
{
	__u32 index = (bpf_get_smp_processor_id() & (GABION_COUNTER_STRIPES - 1)) * GABION_COUNTERS;
	__u64 *count;

	if (!policy->counters || !entry)
		return;
	index += policy->counters + entry - 1;
	count = bpf_map_lookup_elem(&entry_counts, &index);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* While the model learns it is to know how often its items are met: what cannot be counted is told. */
static __always_inline __u32 counted(const struct cgroup_policy *policy, __u32 entry, __u32 action)
{
	if (action != GABION_ALLOW || !(policy->flags & GABION_CGROUP_LEARNING) || policy->counters || !entry)
		return action;
	return GABION_ASK;
}

/*
 * A list may let many things through, and which they were should be known to those who change the list: each is told
 * once an hour, as a question that stops nothing. What is over the bound is let through and counted.
 */
static __always_inline __u32 allow_listed(const struct gabion_event *event, __u64 what)
{
	struct told_key key = { .container_id = event->cgroup_id, .what = what };
	__u64 now = bpf_ktime_get_boot_ns(), second = now >> 30;
	__u64 *at = bpf_map_lookup_elem(&told, &key);
	struct told_budget *budget;
	__u32 kind = event->frame.type & (TOLD_KINDS - 1);

	if (at && now - *at < TOLD_AGAIN_NS)
		return GABION_ALLOW;
	budget = bpf_map_lookup_elem(&told_budgets, &kind);
	if (!budget)
		return GABION_ALLOW;
	if (budget->second != second) {
		budget->second = second;
		budget->used = 0;
	}
	if (budget->used >= TOLD_PER_SECOND)
		return GABION_ALLOW;
	budget->used++;
	bpf_map_update_elem(&told, &key, &now, BPF_ANY);
	return GABION_ASK;
}

struct match {
	__u32 denied; /* strongest action of the denied list, 0 for none */
	__u32 allowed;
	__u32 asked; /* an entry with a condition that only the agent can check */
	__u32 denied_entry;
	__u32 allowed_entry;
};

static __always_inline void take_entry(struct match *match, struct policy_value *value)
{
	if (!value)
		return;
	if (value->action >= GABION_AUDIT) {
		if (value->action > match->denied) {
			match->denied = value->action;
			match->denied_entry = value->entry;
		}
	} else if (value->action == GABION_ASK) {
		match->asked = 1;
	} else {
		match->allowed = 1;
		match->allowed_entry = value->entry;
	}
}

static __always_inline void try_entry(struct match *match, __u32 slot, __u32 kind, __u64 hash)
{
	struct policy_key key = { .slot = slot, .kind = kind, .hash = hash };

	take_entry(match, bpf_map_lookup_elem(&policy, &key));
}

/* As `try_entry`, for a list: without a look-up where the text can be in none. */
static __always_inline void try_listed(struct match *match, const __u64 *listed, __u32 slot, __u32 kind, __u64 hash)
{
	if (listed[hash >> 6 & (GABION_LISTED_WORDS - 1)] & 1ULL << (hash & 63))
		try_entry(match, slot, kind, hash);
}

static __always_inline bool has_kind(const struct slot_defaults *defaults, __u32 kind)
{
	return defaults->kinds & 1ULL << kind;
}

/* The entry with the longest prefix that covers a port or an address. Denied and allowed ones are different kinds. */
static __always_inline struct policy_value *find_prefix(const struct slot_defaults *defaults, __u32 slot, __u32 kind,
							const __u8 *bytes, __u32 bits)
{
	struct prefix_key key = { .prefix = 64 + bits, .slot = slot, .kind = kind };

	if (!has_kind(defaults, kind))
		return 0;
	__builtin_memcpy(key.bytes, bytes, bits == 24 ? 3 : 16);
	return bpf_map_lookup_elem(&prefixes, &key);
}

#endif
