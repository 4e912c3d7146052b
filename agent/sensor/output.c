// SPDX-License-Identifier: Apache-2.0
/* The pipe to the agent. It is never waited for: what does not fit into the buffer is counted as lost. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "sensor.h"

#define BUFFER_BYTES (8 * 1024 * 1024)
/* Programs leave this much for what must not be lost: answers, counters, new and ended containers. */
#define CRITICAL_RESERVE (1024 * 1024)
/* And everything else this much for programs, and for what was refused. */
#define PROGRAM_RESERVE (2 * 1024 * 1024)
#define ROWS 1024
/* Stands where a row was: those behind it are still found. */
#define REMOVED UINT64_MAX

static char buffer[BUFFER_BYTES];
static size_t begin, end;
static uint64_t lost;
static struct row {
	uint64_t key;
	struct output_counts counts;
} rows[ROWS];

bool output_flush(void)
{
	while (begin < end) {
		ssize_t written = write(STDOUT_FILENO, buffer + begin, end - begin);

		if (written < 0)
			return errno == EAGAIN || errno == EINTR;
		begin += written;
	}
	begin = end = 0;
	return true;
}

bool output_has_pending(void)
{
	return begin < end;
}

bool output_send(const void *frame, uint32_t length, bool is_critical)
{
	const struct gabion_frame *head = frame;
	bool is_first = head->type == GABION_EXEC || head->type == GABION_EXIT || head->outcome >= GABION_KILLED;
	size_t limit = BUFFER_BYTES - (is_critical ? 0 : CRITICAL_RESERVE) - (is_critical || is_first ? 0 : PROGRAM_RESERVE);

	if (end + length > limit && begin > 0) {
		memmove(buffer, buffer + begin, end - begin);
		end -= begin;
		begin = 0;
	}
	if (end + length > limit) {
		lost++;
		return false;
	}
	memcpy(buffer + end, frame, length);
	end += length;
	return true;
}

uint64_t output_lost(void)
{
	return lost;
}

/* Sections of one container have rows of their own. */
static uint64_t row_key(uint64_t cgroup_id, uint32_t section)
{
	return cgroup_id << 3 | section;
}

/* Rows are found by open addressing; when the table is full a loss still stands in the total. */
static struct row *find_row(uint64_t key, bool is_adding)
{
	struct row *free_row = NULL;

	for (uint32_t i = 0; i < ROWS; i++) {
		struct row *row = &rows[(key + i) % ROWS];

		if (row->key == key)
			return row;
		if (!free_row && (row->key == 0 || row->key == REMOVED))
			free_row = row;
		if (row->key == 0)
			break;
	}
	if (!is_adding || !free_row)
		return NULL;
	*free_row = (struct row){ .key = key };
	return free_row;
}

void output_count_lost(uint64_t cgroup_id, uint32_t section)
{
	struct row *row = find_row(row_key(cgroup_id, section), true);

	if (row)
		row->counts.lost++;
}

void output_count_own(uint64_t cgroup_id, uint32_t section, enum output_fate fate)
{
	struct row *row = find_row(row_key(cgroup_id, section), true);

	if (!row)
		return;
	row->counts.own++;
	row->counts.own_lost += fate != OUTPUT_TOLD;
	row->counts.own_throttled += fate == OUTPUT_THROTTLED;
}

struct output_counts output_counts_of(uint64_t cgroup_id, uint32_t section)
{
	struct row *row = find_row(row_key(cgroup_id, section), false);

	return row ? row->counts : (struct output_counts){ 0 };
}

/* Calls back for each container's section that something was counted of. */
void output_each_row(void (*visit)(void *context, uint64_t cgroup_id, uint32_t section), void *context)
{
	for (uint32_t i = 0; i < ROWS; i++)
		if (rows[i].key != 0 && rows[i].key != REMOVED)
			visit(context, rows[i].key >> 3, rows[i].key & 7);
}

/* A control group's number is used again some day: what was lost of the old one is not the new one's. */
void output_forget(uint64_t cgroup_id, uint32_t section)
{
	struct row *row = find_row(row_key(cgroup_id, section), false);

	if (row)
		row->key = REMOVED;
}

void output_acknowledge(uint32_t request, int error, const char *message)
{
	struct ack_frame frame = {
		.frame = { .length = sizeof(frame), .type = GABION_ACK, .version = GABION_WIRE_VERSION },
		.request = request,
		.error = error < 0 ? -error : error,
	};

	strncpy((char *)frame.message, message ? message : error ? strerror(frame.error) : "", sizeof(frame.message) - 1);
	output_send(&frame, sizeof(frame), true);
}
