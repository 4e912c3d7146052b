/* SPDX-License-Identifier: Apache-2.0 */
/* What an exec is matched with. */
#ifndef GABION_EXEC_HASH_BPF_H
#define GABION_EXEC_HASH_BPF_H

struct exec_scratch {
	struct exec_event event;
	struct text_hashes path;
	struct text_hashes filename;
	struct text_hashes name;
	struct match match; /* here and not on the stack, so that the verifier does not follow every combination */
	__u32 reserved;
	__u64 cgroup_id;
	__u64 kinds; /* of entries in the slot */
	__u64 listed[GABION_LISTED_WORDS];
	__u32 cgroup_flags;
	__u32 has_slot;
	__u32 image; /* the slot's defaults */
	__u32 foreign;
	__u32 stream;
	__u32 setuid;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_scratch);
} scratches SEC(".maps");

static __always_inline struct exec_scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

__attribute__((noinline)) int hash_exec_path(void)
{
	struct exec_scratch *s = scratch();

	if (!s)
		return 0;
	HASH_TEXT(s->event.path, GABION_PATH_MAX, &s->path, 1)
	return 1;
}

__attribute__((noinline)) int hash_exec_filename(void)
{
	struct exec_scratch *s = scratch();

	if (!s)
		return 0;
	HASH_TEXT(s->event.filename, GABION_FILENAME_MAX, &s->filename, 1)
	return 1;
}

/* The base name in argv[0]; the dash of a login shell does not belong to it. */
__attribute__((noinline)) int hash_exec_name(void)
{
	struct exec_scratch *s = scratch();
	__u64 base = hash_basis;

	if (!s)
		return 0;
	/* Without an argv[0] the file's own name is the name, as for the agent. */
	if (s->event.argv[0] == 0) {
		s->name.base = s->filename.base;
		s->name.is_complete = s->filename.is_complete;
		return 1;
	}
	s->name.is_complete = 0;
	for (__u32 i = 0; i < GABION_NAME_MAX; i++) {
		__u8 byte = s->event.argv[i];

		if (byte == 0) {
			s->name.is_complete = 1;
			break;
		}
		if (i == 0 && byte == '-')
			continue;
		base = byte == '/' ? hash_basis : gabion_hash_byte(base, byte);
	}
	s->name.base = base;
	return 1;
}

#endif
