// SPDX-License-Identifier: Apache-2.0
/* Versions of policies in the kernel. A slot is loaded whole before any group is bound to it. */
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

struct prefix_key {
	uint32_t prefix;
	uint32_t slot;
	uint32_t kind;
	uint8_t bytes[16];
};

struct slot_defaults {
	uint64_t kinds;
	uint64_t listed[GABION_LISTED_WORDS];
	struct slot_head head;
};

/* What was put into the maps for each slot, so that it can be taken out again. */
static struct {
	struct policy_key *keys;
	uint32_t count, capacity;
	struct prefix_key *prefixes;
	uint32_t prefix_count, prefix_capacity;
	uint32_t entry_count; /* highest number of an entry */
	uint64_t kinds;
	uint64_t listed[GABION_LISTED_WORDS];
} loaded[SLOTS_MAX];

uint64_t hash_text(uint64_t basis, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		basis = gabion_hash_byte(basis, text[i]);
	return basis;
}

/* Domains are read from their end, so that every suffix is met on the way. */
static uint64_t hash_reversed(uint64_t basis, const char *text, size_t length)
{
	for (size_t i = length; i > 0; i--)
		basis = gabion_hash_byte(basis, text[i - 1]);
	return basis;
}

/* As the network programs have it, from the address as it stands. */
static uint64_t destination_hash(uint64_t basis, const char *address, size_t length, uint64_t transport_and_port)
{
	uint64_t parts[2] = {};

	memcpy(parts, address, length < sizeof(parts) ? length : sizeof(parts));
	basis = gabion_hash_join(gabion_hash_join(basis, parts[0]), parts[1]);
	return gabion_hash_join(basis, transport_and_port);
}

static uint64_t entry_hash(uint64_t basis, const struct slot_entry *entry, const char *text)
{
	const char *second = text + entry->first_length;
	uint64_t first, item;

	switch (entry->kind) {
	case GABION_DOMAIN:
	case GABION_SUFFIX:
	case GABION_DOMAIN_BAD:
		return hash_reversed(basis, text, entry->first_length);
	case GABION_DOMAIN_ITEM:
		return gabion_hash_join(hash_reversed(basis, text, entry->first_length), entry->content);
	case GABION_DESTINATION_ITEM:
		return destination_hash(basis, text, entry->first_length, entry->content);
	}
	first = hash_text(basis, text, entry->first_length);
	switch (entry->kind) {
	case GABION_ITEM:
	case GABION_FILE_ITEM:
		return gabion_hash_join(first, hash_text(basis, second, entry->second_length));
	case GABION_ITEM_CONTENT:
		item = gabion_hash_join(first, hash_text(basis, second, entry->second_length));
		return gabion_hash_join(item, entry->content);
	default:
		return first;
	}
}

/* Makes room for one more element. */
static int grow(void **elements, uint32_t count, uint32_t *capacity, size_t size)
{
	uint32_t wanted = *capacity ? *capacity * 2 : 64;
	void *grown;

	if (count < *capacity)
		return 0;
	grown = realloc(*elements, wanted * size);
	if (!grown)
		return -ENOMEM;
	*elements = grown;
	*capacity = wanted;
	return 0;
}

static int put_hashed(struct programs *programs, uint32_t slot, const struct slot_entry *entry, const char *text)
{
	struct policy_key key = { .slot = slot, .kind = entry->kind,
				  .hash = entry_hash(programs->hash_basis, entry, text) };
	struct policy_value value = { .action = entry->action, .entry = entry->entry };

	if (grow((void **)&loaded[slot].keys, loaded[slot].count, &loaded[slot].capacity, sizeof(key)) < 0)
		return -ENOMEM;
	if (bpf_map_update_elem(programs->policy, &key, &value, BPF_ANY) < 0)
		return -errno;
	loaded[slot].keys[loaded[slot].count++] = key;
	if (entry->kind == GABION_ITEM || entry->kind == GABION_ITEM_CONTENT || entry->kind == GABION_FILE_ITEM ||
	    entry->kind == GABION_DESTINATION_ITEM)
		return 0; /* looked up once, and mostly there */
	loaded[slot].listed[key.hash >> 6 & (GABION_LISTED_WORDS - 1)] |= 1ULL << (key.hash & 63);
	return 0;
}

static int put_prefix(struct programs *programs, uint32_t slot, const struct slot_entry *entry, const char *text)
{
	struct prefix_key key = { .prefix = 64 + entry->prefix, .slot = slot, .kind = entry->kind };
	struct policy_value value = { .action = entry->action, .entry = entry->entry };

	if (entry->first_length > sizeof(key.bytes) || entry->prefix > entry->first_length * 8u)
		return -EBADMSG;
	memcpy(key.bytes, text, entry->first_length);
	if (grow((void **)&loaded[slot].prefixes, loaded[slot].prefix_count, &loaded[slot].prefix_capacity,
		 sizeof(key)) < 0)
		return -ENOMEM;
	if (bpf_map_update_elem(programs->prefixes, &key, &value, BPF_ANY) < 0)
		return -errno;
	loaded[slot].prefixes[loaded[slot].prefix_count++] = key;
	return 0;
}

static void drop(struct programs *programs, uint32_t slot)
{
	for (uint32_t i = 0; i < loaded[slot].count; i++)
		bpf_map_delete_elem(programs->policy, &loaded[slot].keys[i]);
	for (uint32_t i = 0; i < loaded[slot].prefix_count; i++)
		bpf_map_delete_elem(programs->prefixes, &loaded[slot].prefixes[i]);
	bpf_map_delete_elem(programs->slots, &slot);
	free(loaded[slot].keys);
	free(loaded[slot].prefixes);
	memset(&loaded[slot], 0, sizeof(loaded[slot]));
}

static int load_entries(struct programs *programs, const struct control_frame *frame, const char *at, const char *end)
{
	for (uint32_t i = 0; i < frame->count; i++) {
		const struct slot_entry *entry = (const void *)at;
		size_t text_length;
		int error;

		if (end - at < (ptrdiff_t)sizeof(*entry))
			return -EBADMSG;
		text_length = (size_t)entry->first_length + entry->second_length;
		if ((size_t)(end - at) < sizeof(*entry) + text_length || entry->kind > 63)
			return -EBADMSG;
		error = entry->kind >= GABION_PREFIXES ? put_prefix(programs, frame->slot, entry, at + sizeof(*entry)) :
							 put_hashed(programs, frame->slot, entry, at + sizeof(*entry));
		if (error)
			return error;
		loaded[frame->slot].kinds |= 1ULL << entry->kind;
		if (entry->entry > loaded[frame->slot].entry_count)
			loaded[frame->slot].entry_count = entry->entry;
		at += (sizeof(*entry) + text_length + 7) & ~7UL;
	}
	return 0;
}

/* A fault leaves nothing of the slot behind. */
int slots_load(struct programs *programs, const struct control_frame *frame)
{
	const char *body = (const char *)(frame + 1), *end = (const char *)frame + frame->frame.length;
	struct slot_defaults defaults;
	int error;

	if (frame->slot == 0 || frame->slot >= SLOTS_MAX)
		return -EINVAL;
	if (end - body < (ptrdiff_t)sizeof(defaults.head))
		return -EBADMSG;
	memcpy(&defaults.head, body, sizeof(defaults.head));
	error = load_entries(programs, frame, body + sizeof(defaults.head), end);
	defaults.kinds = loaded[frame->slot].kinds;
	memcpy(defaults.listed, loaded[frame->slot].listed, sizeof(defaults.listed));
	if (!error && bpf_map_update_elem(programs->slots, &frame->slot, &defaults, BPF_ANY) < 0)
		error = -errno;
	if (error)
		drop(programs, frame->slot);
	return error;
}

int slots_drop(struct programs *programs, uint32_t slot)
{
	if (slot >= SLOTS_MAX)
		return -EINVAL;
	drop(programs, slot);
	return 0;
}

uint32_t slots_entry_count(uint32_t slot)
{
	return slot < SLOTS_MAX ? loaded[slot].entry_count : 0;
}
