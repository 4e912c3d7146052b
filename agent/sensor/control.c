// SPDX-License-Identifier: Apache-2.0
/* Orders of the agent. Each is answered by an acknowledgement with its request number. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "sensor.h"
#include "gabion_hash.h"

#define SLOTS_MAX 16384

struct policy_key {
	uint32_t slot;
	uint32_t kind;
	uint64_t hash;
};

struct policy_value {
	uint32_t action;
	uint32_t entry;
};

struct file_key {
	uint64_t inode;
	uint32_t device;
	uint32_t reserved;
};

struct file_value {
	uint64_t ctime_ns;
	uint64_t content;
};

struct slot_defaults {
	uint32_t image_action;
	uint32_t foreign_action;
	uint32_t kinds;
	uint32_t reserved;
};

/* What was put into the policy map for each slot, so that it can be taken out again. */
static struct {
	struct policy_key *keys;
	uint32_t count;
	uint32_t capacity;
	uint32_t kinds;
} loaded[SLOTS_MAX];

uint64_t hash_text(uint64_t basis, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		basis = gabion_hash_byte(basis, text[i]);
	return basis;
}

static uint64_t entry_hash(uint64_t basis, const struct slot_entry *entry, const char *text)
{
	uint64_t first = hash_text(basis, text, entry->first_length);
	uint64_t item;

	if (entry->kind != GABION_ITEM && entry->kind != GABION_ITEM_CONTENT)
		return first;
	item = gabion_hash_join(first, hash_text(basis, text + entry->first_length, entry->second_length));
	return entry->kind == GABION_ITEM ? item : gabion_hash_join(item, entry->content);
}

static int remember(uint32_t slot, struct policy_key key)
{
	if (loaded[slot].count == loaded[slot].capacity) {
		uint32_t capacity = loaded[slot].capacity ? loaded[slot].capacity * 2 : 64;
		struct policy_key *grown = realloc(loaded[slot].keys, capacity * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		loaded[slot].keys = grown;
		loaded[slot].capacity = capacity;
	}
	loaded[slot].keys[loaded[slot].count++] = key;
	return 0;
}

static void drop_slot(struct programs *programs, uint32_t slot)
{
	for (uint32_t i = 0; i < loaded[slot].count; i++)
		bpf_map_delete_elem(programs->policy, &loaded[slot].keys[i]);
	bpf_map_delete_elem(programs->slots, &slot);
	free(loaded[slot].keys);
	memset(&loaded[slot], 0, sizeof(loaded[slot]));
}

static int load_entries(struct programs *programs, const struct control_frame *frame)
{
	const char *at = (const char *)(frame + 1), *end = (const char *)frame + frame->frame.length;

	for (uint32_t i = 0; i < frame->count; i++) {
		const struct slot_entry *entry = (const void *)at;
		struct policy_key key = { .slot = frame->slot };
		struct policy_value value;
		size_t text_length;

		if (end - at < (ptrdiff_t)sizeof(*entry))
			return -EBADMSG;
		text_length = (size_t)entry->first_length + entry->second_length;
		if ((size_t)(end - at) < sizeof(*entry) + text_length)
			return -EBADMSG;
		key.kind = entry->kind;
		key.hash = entry_hash(programs->hash_basis, entry, at + sizeof(*entry));
		value.action = entry->action;
		value.entry = entry->entry;
		if (bpf_map_update_elem(programs->policy, &key, &value, BPF_ANY) < 0)
			return -errno;
		if (remember(frame->slot, key) < 0)
			return -ENOMEM;
		loaded[frame->slot].kinds |= 1u << (entry->kind & 31);
		at += (sizeof(*entry) + text_length + 7) & ~7UL;
	}
	return 0;
}

/* A slot is loaded whole before any group is bound to it; a fault leaves nothing of it behind. */
static int load_slot(struct programs *programs, const struct control_frame *frame)
{
	struct slot_defaults defaults = { .image_action = frame->default_action, .foreign_action = frame->foreign_action };
	int error;

	if (frame->slot == 0 || frame->slot >= SLOTS_MAX)
		return -EINVAL;
	error = load_entries(programs, frame);
	defaults.kinds = loaded[frame->slot].kinds;
	if (!error && bpf_map_update_elem(programs->slots, &frame->slot, &defaults, BPF_ANY) < 0)
		error = -errno;
	if (error)
		drop_slot(programs, frame->slot);
	return error;
}

static int change_files(struct programs *programs, const struct control_frame *frame)
{
	const struct file_entry *entries = (const void *)(frame + 1);
	int error = 0;

	if (frame->frame.length < sizeof(*frame) + (uint64_t)frame->count * sizeof(*entries))
		return -EBADMSG;
	for (uint32_t i = 0; i < frame->count && !error; i++) {
		struct file_key key = { .inode = entries[i].inode, .device = entries[i].device };
		struct file_value value = { .ctime_ns = entries[i].ctime_ns, .content = entries[i].content };

		if (frame->frame.type == GABION_FILES_DROP)
			bpf_map_delete_elem(programs->files, &key);
		else if (bpf_map_update_elem(programs->files, &key, &value, BPF_ANY) < 0)
			error = -errno;
	}
	return error;
}

static int take_path(const struct control_frame *frame, char *path)
{
	if (frame->path_length >= GABION_CGROUP_PATH_MAX ||
	    frame->frame.length < sizeof(*frame) + frame->path_length)
		return -EBADMSG;
	memcpy(path, frame + 1, frame->path_length);
	path[frame->path_length] = 0;
	return 0;
}

static int change_group(struct programs *programs, const struct options *options, const struct control_frame *frame)
{
	char path[GABION_CGROUP_PATH_MAX];
	int error = take_path(frame, path);

	if (error)
		return error;
	switch (frame->frame.type) {
	case GABION_BIND:
		return groups_bind(options, programs->cgroups, path, frame->cgroup_id, frame->slot,
				   frame->flags | GABION_CGROUP_BOUND, frame->device);
	case GABION_THAW:
		return groups_thaw(options, path, frame->cgroup_id);
	case GABION_KILL:
		return groups_write(options, path, frame->cgroup_id, "cgroup.kill", "1");
	default: /* UNBIND */
		events_send_stats(programs);
		bpf_map_delete_elem(programs->counts, &frame->cgroup_id);
		error = groups_bind(options, programs->cgroups, path, frame->cgroup_id, 0, GABION_CGROUP_SCOPE, 0);
		return error == -ENOENT || error == -ESTALE ? 0 : error;
	}
}

void control_handle(struct programs *programs, const struct options *options, const struct control_frame *frame)
{
	int error;

	switch (frame->frame.type) {
	case GABION_SLOT_LOAD:
		error = load_slot(programs, frame);
		break;
	case GABION_SLOT_DROP:
		error = frame->slot < SLOTS_MAX ? 0 : -EINVAL;
		if (!error)
			drop_slot(programs, frame->slot);
		break;
	case GABION_FILES_PUT:
	case GABION_FILES_DROP:
		error = change_files(programs, frame);
		break;
	case GABION_BIND:
	case GABION_UNBIND:
	case GABION_THAW:
	case GABION_KILL:
		error = change_group(programs, options, frame);
		break;
	case GABION_PING:
		error = 0;
		break;
	default:
		error = -ENOSYS;
	}
	output_acknowledge(frame->request, error, NULL);
}
