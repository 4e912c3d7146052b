/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes of what an exec is matched with. Each text is read once. */
#ifndef GABION_EXEC_HASH_BPF_H
#define GABION_EXEC_HASH_BPF_H

#define DIRECTORIES_MAX 16

struct text_hashes {
	__u64 full;
	__u64 base; /* of what follows the last slash */
	__u32 directory_count;
	__u32 is_complete;
	__u32 is_plain; /* without `//` and components that begin with a dot, which may lead elsewhere */
	__u32 reserved;
	__u64 directories[DIRECTORIES_MAX]; /* of the text up to and with each slash */
};

struct exec_scratch {
	struct exec_event event;
	struct text_hashes path;
	struct text_hashes filename;
	struct text_hashes name;
	__u64 cgroup_id;
	__u32 cgroup_flags;
	__u32 action;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_scratch);
} scratches SEC(".maps");

const volatile __u64 hash_basis = 0xcbf29ce484222325ULL;

static __always_inline struct exec_scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

/*
 * A macro body and not a function with a pointer: global functions, which the verifier checks once and not at each
 * call, take only numbers, so each text has one of its own. The count of directories lives in the map and not in a
 * register, so that the verifier forgets its value and does not follow every combination.
 */
#define HASH_TEXT(text, text_max, hashes, stop_at_nul)                                                                 \
	__u64 full = hash_basis, base = hash_basis;                                                                    \
	__u8 before = 0;                                                                                               \
	(hashes)->is_plain = 1;                                                                                        \
	(hashes)->directory_count = 0;                                                                                 \
	(hashes)->is_complete = 0;                                                                                     \
	for (__u32 i = 0; i < (text_max); i++) {                                                                       \
		__u8 byte = (text)[i];                                                                                 \
		if (byte == 0) {                                                                                       \
			(hashes)->is_complete = 1;                                                                     \
			break;                                                                                         \
		}                                                                                                      \
		if (before == '/' && (byte == '/' || byte == '.'))                                                     \
			(hashes)->is_plain = 0;                                                                        \
		before = byte;                                                                                         \
		full = gabion_hash_byte(full, byte);                                                                   \
		base = gabion_hash_byte(base, byte);                                                                   \
		if (byte == '/') {                                                                                     \
			__u32 at = *(volatile __u32 *)&(hashes)->directory_count;                                      \
			base = hash_basis;                                                                             \
			if (at < DIRECTORIES_MAX) {                                                                    \
				(hashes)->directories[at] = full;                                                      \
				*(volatile __u32 *)&(hashes)->directory_count = at + 1;                                \
			}                                                                                              \
		}                                                                                                      \
	}                                                                                                              \
	(hashes)->full = full;                                                                                         \
	(hashes)->base = base;

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
