// SPDX-License-Identifier: Apache-2.0
/* The pipe to the agent. It is never waited for: what does not fit into the buffer is counted as lost. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "sensor.h"

#define BUFFER_BYTES (8 * 1024 * 1024)
/* Programs leave this much for what must not be lost: answers, kills, new and ended containers. */
#define CRITICAL_RESERVE (1024 * 1024)
/* And everything else this much for programs. */
#define PROGRAM_RESERVE (2 * 1024 * 1024)
#define LOST_ROWS 1024

static char buffer[BUFFER_BYTES];
static size_t begin, end;
static uint64_t lost;
static struct {
	uint64_t cgroup_id, lost;
} lost_rows[LOST_ROWS];

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
	bool is_program = head->type == GABION_EXEC || head->type == GABION_EXIT;
	size_t limit = BUFFER_BYTES - (is_critical ? 0 : CRITICAL_RESERVE) -
		       (is_critical || is_program ? 0 : PROGRAM_RESERVE);

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

/* Rows are found by open addressing; when the table is full the loss still stands in the total. */
static uint64_t *lost_row(uint64_t cgroup_id, bool is_adding)
{
	for (uint32_t i = 0; i < LOST_ROWS; i++) {
		uint32_t at = (cgroup_id + i) % LOST_ROWS;

		if (lost_rows[at].cgroup_id == cgroup_id)
			return &lost_rows[at].lost;
		if (lost_rows[at].cgroup_id == 0) {
			if (!is_adding)
				return NULL;
			lost_rows[at].cgroup_id = cgroup_id;
			return &lost_rows[at].lost;
		}
	}
	return NULL;
}

/* Sections of one container have rows of their own. */
static uint64_t row_key(uint64_t cgroup_id, uint32_t section)
{
	return cgroup_id << 3 | section;
}

void output_count_lost(uint64_t cgroup_id, uint32_t section)
{
	uint64_t *row = lost_row(row_key(cgroup_id, section), true);

	if (row)
		++*row;
}

uint64_t output_lost_of(uint64_t cgroup_id, uint32_t section)
{
	uint64_t *row = lost_row(row_key(cgroup_id, section), false);

	return row ? *row : 0;
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

/* A control group's number is used again some day: what was lost of the old one is not the new one's. */
void output_forget(uint64_t cgroup_id)
{
	for (uint32_t section = 0; section < 8; section++) {
		uint64_t *row = lost_row(row_key(cgroup_id, section), false);

		if (row)
			*row = 0;
	}
}
