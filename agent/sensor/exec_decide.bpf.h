/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What policy says of an exec. Denied wins over everything; then the model's items by path, name and content; then the
 * rule's allowed list, for unchanged files only; then the slot's default. What cannot be told here is asked of the
 * agent, and asking never kills.
 */
#ifndef GABION_EXEC_DECIDE_BPF_H
#define GABION_EXEC_DECIDE_BPF_H

struct file_key {
	__u64 inode;
	__u32 device;
	__u32 reserved;
};

struct file_value {
	__u64 ctime_ns;
	__u64 content;
};

/* Files whose content is known, by identity. A file that was written or replaced has another ctime or inode. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct file_key);
	__type(value, struct file_value);
	__uint(map_flags, 1);
} files SEC(".maps");

static __always_inline void try_directories(struct match *match, const __u64 *listed, __u32 slot, struct text_hashes *hashes)
{
	for (__u32 i = 0; i < DIRECTORIES_MAX; i++) {
		if (i >= hashes->directory_count)
			break;
		try_listed(match, listed, slot, GABION_DIRECTORY, hashes->directories[i]);
	}
}

static __always_inline __u32 item_action(struct exec_scratch *s, __u32 kind, __u64 hash)
{
	struct policy_key key = { .slot = s->event.event.slot, .kind = kind, .hash = hash };
	struct policy_value *value = bpf_map_lookup_elem(&policy, &key);

	if (!value)
		return 0;
	s->event.event.entry = value->entry;
	return value->action;
}

__attribute__((noinline)) int decide_exec(void)
{
	struct exec_scratch *s = scratch();
	__u32 slot, action;
	bool is_script, is_whole, is_absolute, is_linked;
	__u64 item;

	if (!s || !s->has_slot)
		return GABION_ASK;
	slot = s->event.event.slot;
	__builtin_memset(&s->match, 0, sizeof(s->match));
	is_script = s->event.flags & GABION_EXEC_SCRIPT;
	is_absolute = s->event.filename[0] == '/';
	is_whole = !(s->event.flags & (GABION_EXEC_PATH_TRUNCATED | GABION_EXEC_NAME_TRUNCATED));
	is_linked = s->filename.full != s->path.full;

	if (s->kinds & 1ULL << GABION_PATH) {
		if (s->path.is_complete)
			try_listed(&s->match, s->listed, slot, GABION_PATH, s->path.full);
		if (s->filename.is_complete && is_absolute && is_linked)
			try_listed(&s->match, s->listed, slot, GABION_PATH, s->filename.full);
	}
	if (s->kinds & 1ULL << GABION_NAME) {
		if (s->path.is_complete)
			try_listed(&s->match, s->listed, slot, GABION_NAME, s->path.base);
		if (s->filename.is_complete && s->filename.base != s->path.base)
			try_listed(&s->match, s->listed, slot, GABION_NAME, s->filename.base);
		if (s->name.is_complete && !is_script && s->name.base != s->path.base)
			try_listed(&s->match, s->listed, slot, GABION_NAME, s->name.base);
	}
	if (s->kinds & 1ULL << GABION_DIRECTORY) {
		if (s->path.is_complete)
			try_directories(&s->match, s->listed, slot, &s->path);
		if (s->filename.is_complete && is_absolute && is_script)
			try_directories(&s->match, s->listed, slot, &s->filename);
	}
	if (s->match.denied) {
		s->event.event.entry = s->match.denied_entry;
		return s->match.denied;
	}

	/*
	 * Whether standard streams that are sockets or pipes mean a remote shell is for the agent to tell. Programs run others
	 * with such streams all the time: of those only shells are asked about.
	 */
	if (s->event.flags & GABION_EXEC_SOCKET_STREAM && s->stream != GABION_ALLOW)
		return GABION_ASK;
	if (s->event.flags & GABION_EXEC_PASSED_STREAMS && s->stream != GABION_ALLOW && s->kinds & 1ULL << GABION_SHELL) {
		if (s->path.is_complete)
			try_listed(&s->match, s->listed, slot, GABION_SHELL, s->path.base);
		if (s->filename.is_complete)
			try_listed(&s->match, s->listed, slot, GABION_SHELL, s->filename.base);
	}
	if (s->event.flags & GABION_EXEC_SETUID && s->setuid != GABION_ALLOW)
		return GABION_ASK;
	/* From here on a wrong answer could allow or kill: what is cut off or relative is the agent's to decide. */
	if (s->match.asked || !is_whole || (is_script && !(is_absolute && s->filename.is_plain)))
		return GABION_ASK;
	item = gabion_hash_join(s->path.full, is_script ? s->filename.full : s->name.base);
	/* A script's own content is not known here: its file is closed by now. */
	if (s->event.content && !is_script) {
		action = item_action(s, GABION_ITEM_CONTENT, gabion_hash_join(item, s->event.content));
		if (action)
			return action;
	}
	action = item_action(s, GABION_ITEM, item);
	if (action)
		return action;
	if (s->match.allowed) {
		s->event.event.entry = s->match.allowed_entry;
		return s->event.content == GABION_CONTENT_IMAGE && !is_script ? allow_listed(&s->event.event, item) : GABION_ASK;
	}
	return s->event.content == GABION_CONTENT_IMAGE ? s->image : s->foreign;
}

#endif
