/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which processes are the container's own: those that ran a program inside it, and their children. A runtime on its way
 * in has the container's control group, but its files and system calls are not the container's. With each the hash of
 * its program's path, which every changed file is looked up with.
 */
#ifndef GABION_CONTAINED_BPF_H
#define GABION_CONTAINED_BPF_H

struct contained_process {
	__u64 exe_hash; /* 0 where it is not known, or the path was cut */
	__u64 container_id;
	__u64 has_left; /* 1 once it was told that it is in a control group of nobody's, or somebody else's */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	/* With its memory taken beforehand: the fork program took 0.4 to 0.6 µs so, 0.7 without, 1.8 with task storage. */
	__uint(max_entries, 131072);
	__type(key, __u32); /* pid on the host */
	__type(value, struct contained_process);
} contained SEC(".maps");

/* False where there is no room: what the process does to files and with system calls will not be seen. */
static __always_inline bool mark_contained(__u32 pid, __u64 exe_hash, __u64 container_id)
{
	struct contained_process fresh = { .exe_hash = exe_hash, .container_id = container_id };
	struct contained_process *known = bpf_map_lookup_elem(&contained, &pid);

	if (known) {
		known->exe_hash = exe_hash;
		known->container_id = container_id;
		return true;
	}
	return bpf_map_update_elem(&contained, &pid, &fresh, BPF_ANY) == 0;
}

static __always_inline struct contained_process *contained_of(__u32 pid)
{
	return bpf_map_lookup_elem(&contained, &pid);
}

#endif
