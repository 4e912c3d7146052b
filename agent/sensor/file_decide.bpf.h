/* SPDX-License-Identifier: Apache-2.0 */
/* What policy says of a changed file: denied, executable, allowed, learned for this program, or the default. */
#ifndef GABION_FILE_DECIDE_BPF_H
#define GABION_FILE_DECIDE_BPF_H

struct file_scratch {
	struct file_event event;
	struct text_hashes path;
	struct text_hashes exe;
	__u64 exe_hash; /* of the path of the program that does it, 0 where it is not known */
	__u32 has_actor;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct file_scratch);
} file_scratches SEC(".maps");

static __always_inline struct file_scratch *file_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&file_scratches, &zero);
}

#define LIBRARY_END 24

/* `.so`, or `.so.` and a version that ends with a digit: libraries need no mode to be run. The agent's twin is `isLibrary` of file-policy.ts. */
static __always_inline bool is_library(const __u8 *path, __u32 length)
{
	__u32 start = length > LIBRARY_END ? length - LIBRARY_END : 0;
	__u8 last = path[(length - 1) & (GABION_PATH_MAX - 1)];
	bool is_found = false;

	if (last != 'o' && !(last >= '0' && last <= '9'))
		return false;
	for (__u32 i = 0; i + 3 <= LIBRARY_END; i++) {
		__u32 at = (start + i) & (GABION_PATH_MAX - 1);

		if (start + i + 3 > length)
			break;
		if (at > GABION_PATH_MAX - 4)
			break;
		if (path[at] == '/')
			is_found = false;
		if (path[at] == '.' && path[at + 1] == 's' && path[at + 2] == 'o' && path[at + 3] == (last == 'o' ? 0 : '.'))
			is_found = true;
	}
	return is_found;
}

__attribute__((noinline)) int hash_file_path(void)
{
	struct file_scratch *s = file_scratch();

	if (!s)
		return 0;
	HASH_TEXT(s->event.path, GABION_PATH_MAX, &s->path, 1)
	return 1;
}

__attribute__((noinline)) int hash_file_exe(void)
{
	struct file_scratch *s = file_scratch();

	if (!s)
		return 0;
	HASH_TEXT(s->event.actor.exe, GABION_EXE_MAX, &s->exe, 1)
	return 1;
}

static __always_inline void note_folder(struct text_hashes *hashes, __u64 hash)
{
	__u32 at = *(volatile __u32 *)&hashes->directory_count;

	hashes->parent = hash;
	if (at < DIRECTORIES_MAX) {
		hashes->directories[at] = hash;
		*(volatile __u32 *)&hashes->directory_count = at + 1;
	}
}

/* A path as typed, behind the folder that it begins at. A text with `//`, `.` or `..` is not followed. */
__attribute__((noinline)) int hash_file_typed(void)
{
	struct file_scratch *s = file_scratch();
	__u64 hash = hash_basis;
	__u8 before = '/';

	if (!s)
		return 0;
	s->path.is_complete = 0;
	s->path.directory_count = 0;
	for (__u32 i = 0; i < GABION_CWD_MAX; i++) {
		__u8 byte = s->event.base[i];

		if (s->event.base_length == 0 || byte == 0)
			break;
		hash = gabion_hash_byte(hash, byte);
		before = byte;
		if (byte == '/')
			note_folder(&s->path, hash);
	}
	if (s->event.base_length > 0 && before != '/') {
		hash = gabion_hash_byte(hash, '/');
		note_folder(&s->path, hash);
	}
	before = s->event.base_length > 0 ? '/' : 0;
	for (__u32 i = 0; i < GABION_PATH_MAX; i++) {
		__u8 byte = s->event.path[i];

		if (byte == 0) {
			s->path.full = hash;
			s->path.is_complete = 1;
			return 1;
		}
		if (before == '/' && (byte == '/' || byte == '.'))
			return 0;
		hash = gabion_hash_byte(hash, byte);
		before = byte;
		if (byte == '/')
			note_folder(&s->path, hash);
	}
	return 0;
}

static __always_inline __u32 file_item_action(struct file_scratch *s)
{
	struct policy_key key = { .slot = s->event.event.slot, .kind = GABION_FILE_ITEM,
				  .hash = gabion_hash_join(s->path.parent, s->exe_hash) };
	struct policy_value *value = bpf_map_lookup_elem(&policy, &key);

	if (!value)
		return 0;
	s->event.event.entry = value->entry;
	return value->action;
}

static __always_inline void try_file(struct match *match, const struct slot_defaults *defaults, struct file_scratch *s)
{
	__u32 slot = s->event.event.slot;

	if (has_kind(defaults, GABION_FILE_PATH))
		try_listed(match, defaults->listed, slot, GABION_FILE_PATH, s->path.full);
	if (!has_kind(defaults, GABION_FILE_DIRECTORY))
		return;
	for (__u32 i = 0; i < DIRECTORIES_MAX; i++) {
		if (i >= s->path.directory_count)
			break;
		try_listed(match, defaults->listed, slot, GABION_FILE_DIRECTORY, s->path.directories[i]);
	}
}

__attribute__((noinline)) int decide_file(void)
{
	struct file_scratch *s = file_scratch();
	struct slot_defaults *defaults;
	struct match match = {};
	__u32 slot, action = 0;

	if (!s)
		return GABION_ASK;
	slot = s->event.event.slot;
	defaults = bpf_map_lookup_elem(&slots, &slot);
	if (!defaults || s->event.flags & GABION_FILE_CUT || !s->path.is_complete)
		return GABION_ASK;
	try_file(&match, defaults, s);
	if (match.denied) {
		s->event.event.entry = match.denied_entry;
		return match.denied;
	}
	if (match.asked || s->event.flags & GABION_FILE_PROC)
		return GABION_ASK;
	if (s->event.flags & GABION_FILE_EXECUTABLE && defaults->actions[GABION_DEFAULT_EXECUTABLE] != GABION_ALLOW)
		return GABION_ASK;
	if (match.allowed) {
		s->event.event.entry = match.allowed_entry;
		/* By folder, as files are learned. */
		return allow_listed(&s->event.event, gabion_hash_join(s->path.parent, s->exe_hash));
	}
	if (has_kind(defaults, GABION_FILE_ITEM) && s->exe_hash)
		action = file_item_action(s);
	return action ? action : defaults->actions[GABION_DEFAULT_FILE];
}

/* A path as typed may lead through a link: what names it is for the agent to judge, and nothing is acted upon here. */
__attribute__((noinline)) int decide_typed(void)
{
	struct file_scratch *s = file_scratch();
	struct slot_defaults *defaults;
	struct match match = {};
	__u32 slot, action = 0;

	if (!s || !s->path.is_complete)
		return GABION_ASK;
	slot = s->event.event.slot;
	defaults = bpf_map_lookup_elem(&slots, &slot);
	if (!defaults)
		return GABION_ASK;
	try_file(&match, defaults, s);
	if (match.denied || match.asked || match.allowed)
		return GABION_ASK;
	if (has_kind(defaults, GABION_FILE_ITEM) && s->exe_hash)
		action = file_item_action(s);
	if (!action)
		action = defaults->actions[GABION_DEFAULT_FILE];
	return action == GABION_ALLOW ? GABION_ALLOW : GABION_ASK;
}

#endif
