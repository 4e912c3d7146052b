// SPDX-License-Identifier: Apache-2.0
/* How often the entries of each container's policy let something through without telling it. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "sensor.h"

#define CONTAINERS_MAX 4096
#define ROWS_MAX 8192

/* Counters of one container, one for each entry of the slot that it is bound to. The first of all is never used: 0 says none. */
static struct area {
	uint64_t cgroup_id;
	uint32_t slot, begin, count;
	uint64_t *last; /* as they were when they were last told */
} areas[CONTAINERS_MAX];
static uint32_t area_count;

static uint64_t values[ROWS_MAX], sums[ROWS_MAX];
static uint32_t keys[ROWS_MAX];

/*
 * A slice of one area's counters, over all stripes. False where the kernel does not read maps in batches. What was
 * counted by whoever had them before does not matter: differences are told.
 */
static bool read_slice(struct programs *programs, uint32_t begin, uint32_t count)
{
	memset(sums, 0, count * sizeof(sums[0]));
	for (uint32_t stripe = 0; stripe < GABION_COUNTER_STRIPES; stripe++) {
		uint32_t before = stripe * GABION_COUNTERS + begin - 1, next, got = count;

		/* Begins behind the key that it is given. */
		if (bpf_map_lookup_batch(programs->entry_counts, &before, &next, keys, values, &got, NULL) < 0 &&
		    errno != ENOENT)
			return false;
		for (uint32_t i = 0; i < got && i < count; i++)
			sums[i] += values[i];
	}
	return true;
}

static void send_rows(struct programs *programs, struct area *area, uint32_t from, uint32_t count)
{
	static struct {
		struct hits_frame head;
		struct hit_row rows[ROWS_MAX];
	} frame;
	uint32_t rows = 0;

	if (!read_slice(programs, area->begin + from, count))
		return;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t more = sums[i] - area->last[from + i];

		if (!more)
			continue;
		frame.rows[rows++] = (struct hit_row){ .entry = from + i + 1, .count = more > UINT32_MAX ? UINT32_MAX : more };
		area->last[from + i] = sums[i];
	}
	if (!rows)
		return;
	frame.head = (struct hits_frame){
		.frame = { .length = sizeof(frame.head) + rows * sizeof(struct hit_row), .type = GABION_HITS,
			   .version = GABION_WIRE_VERSION },
		.cgroup_id = area->cgroup_id,
		.slot = area->slot,
		.row_count = rows,
	};
	output_send(&frame, frame.head.frame.length, true);
}

static void tell(struct programs *programs, struct area *area)
{
	for (uint32_t from = 0; from < area->count; from += ROWS_MAX)
		send_rows(programs, area, from, area->count - from < ROWS_MAX ? area->count - from : ROWS_MAX);
}

/* Areas stand in the order of their counters; the first gap that is large enough, behind `after` where there is one. */
static uint32_t find_gap(uint32_t count, uint32_t after, uint32_t *place)
{
	uint32_t begin = 1;

	for (uint32_t i = 0; i <= area_count; i++) {
		uint32_t end = i < area_count ? areas[i].begin : GABION_COUNTERS;

		uint32_t from = begin > after ? begin : after;

		if (from < end && end - from >= count) {
			*place = i;
			return from;
		}
		if (i < area_count)
			begin = areas[i].begin + areas[i].count;
	}
	return 0;
}

/*
 * Counters for a container that gets a slot; 0 where there is no room: then what its entries let through is not counted.
 * They are given out in turn, so that those of a policy that has just been replaced, which a program may still be
 * writing to, are used again late.
 */
uint32_t counters_take(struct programs *programs, uint64_t cgroup_id, uint32_t slot)
{
	static uint32_t next = 1;
	uint32_t count = slots_entry_count(slot), place, begin;
	struct area area = { .cgroup_id = cgroup_id, .slot = slot, .count = count };

	if (!count || area_count >= CONTAINERS_MAX || programs->entry_counts < 0)
		return 0;
	begin = find_gap(count, next, &place);
	if (!begin)
		begin = find_gap(count, 1, &place);
	area.begin = begin;
	area.last = begin ? calloc(count, sizeof(*area.last)) : NULL;
	if (!area.last)
		return 0;
	for (uint32_t from = 0; from < count; from += ROWS_MAX) {
		uint32_t slice = count - from < ROWS_MAX ? count - from : ROWS_MAX;

		if (!read_slice(programs, begin + from, slice)) {
			free(area.last);
			return 0;
		}
		memcpy(area.last + from, sums, slice * sizeof(sums[0]));
	}
	memmove(areas + place + 1, areas + place, (area_count - place) * sizeof(areas[0]));
	areas[place] = area;
	area_count++;
	next = begin + count;
	return begin;
}

/* Tells what they counted, and gives back all counters of a container but those that begin at `kept`. */
void counters_give_back(struct programs *programs, uint64_t cgroup_id, uint32_t kept)
{
	for (uint32_t i = 0; i < area_count;) {
		if (areas[i].cgroup_id != cgroup_id || areas[i].begin == kept) {
			i++;
			continue;
		}
		tell(programs, &areas[i]);
		free(areas[i].last);
		area_count--;
		memmove(areas + i, areas + i + 1, (area_count - i) * sizeof(areas[0]));
	}
}

void counters_tell(struct programs *programs)
{
	for (uint32_t i = 0; i < area_count; i++)
		tell(programs, &areas[i]);
}
