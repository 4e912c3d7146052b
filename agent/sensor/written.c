// SPDX-License-Identifier: Apache-2.0
/*
 * Files that were written and closed, so that the agent can look at what is in them. Mounts are watched, as the container
 * has them: nothing waits for this, it costs only those who close a file that they could write to.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>
#include "sensor.h"

#define MOUNTS_MAX 4096
#define DELETED " (deleted)"
#define KEPT_MAX 1024
#define KEPT_MS 2000
#define ROUNDS_MAX 64 /* reads at one time: what is left waits in the kernel */

static int watch = -1;
static struct {
	uint64_t mount_id;
	uint64_t cgroup_id; /* 0: free */
	uint32_t slot;
} mounts[MOUNTS_MAX];

/* Files kept open for the agent; the oldest goes where there is no room. */
static struct {
	int fd;
	uint64_t until_ms;
} kept[KEPT_MAX];
static uint32_t kept_begin, kept_count;

static void let_go(void)
{
	close(kept[kept_begin].fd);
	kept_begin = (kept_begin + 1) % KEPT_MAX;
	kept_count--;
}

static void keep(int fd)
{
	uint32_t at;

	if (kept_count == KEPT_MAX)
		let_go();
	at = (kept_begin + kept_count++) % KEPT_MAX;
	kept[at].fd = fd;
	kept[at].until_ms = now_ms() + KEPT_MS;
}

bool written_start(void)
{
	watch = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_MARKS,
			      O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NONBLOCK);
	return watch >= 0;
}

/* Marks go with the mounts; what still comes from one that is not known here is dropped. */
void written_forget(uint64_t cgroup_id)
{
	for (int i = 0; i < MOUNTS_MAX; i++)
		if (mounts[i].cgroup_id == cgroup_id)
			mounts[i].cgroup_id = 0;
}

static int add(const struct control_frame *frame, const struct watch_entry *entry, const char *path)
{
	for (int i = 0; i < MOUNTS_MAX; i++) {
		if (mounts[i].cgroup_id)
			continue;
		if (fanotify_mark(watch, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE, AT_FDCWD, path) < 0)
			return errno == ENOENT || errno == ENOTDIR ? 0 : -errno; /* the container has ended, or unmounted it */
		mounts[i].mount_id = entry->mount_id;
		mounts[i].cgroup_id = frame->cgroup_id;
		mounts[i].slot = frame->slot;
		return 0;
	}
	return -ENOSPC;
}

/* Replaces the mounts of a container that are watched. */
int written_watch(const struct control_frame *frame, const char *at, size_t length)
{
	const char *end = at + length;
	int first_error = 0;

	written_forget(frame->cgroup_id);
	if (frame->count && watch < 0)
		return -EOPNOTSUPP;
	for (uint32_t i = 0; i < frame->count; i++) {
		const struct watch_entry *entry = (const void *)at;
		char path[4096];
		int error;

		if (end - at < (ptrdiff_t)sizeof(*entry) || entry->path_length >= sizeof(path) ||
		    (size_t)(end - at) < sizeof(*entry) + entry->path_length)
			return -EBADMSG;
		memcpy(path, entry + 1, entry->path_length);
		path[entry->path_length] = 0;
		error = add(frame, entry, path);
		if (!first_error)
			first_error = error; /* the others are watched all the same */
		at += sizeof(*entry) + ((entry->path_length + 7) & ~7u);
	}
	return first_error;
}

static int mount_of(uint64_t mount_id)
{
	for (int i = 0; i < MOUNTS_MAX; i++)
		if (mounts[i].cgroup_id && mounts[i].mount_id == mount_id)
			return i;
	return -1;
}

/* True where it was told, and the file is to be kept. */
static bool tell(const struct fanotify_event_metadata *event)
{
	struct written_event written = { .event.frame = { .length = sizeof(written), .type = GABION_WRITTEN,
							  .version = GABION_WIRE_VERSION, .outcome = GABION_ASKED } };
	struct timespec now;
	struct statx file;
	char link[64];
	ssize_t length;
	bool is_told;
	int mount;

	if (statx(event->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &file) < 0 || !S_ISREG(file.stx_mode))
		return false;
	mount = mount_of(file.stx_mnt_id);
	if (mount < 0)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", event->fd);
	length = readlink(link, (char *)written.path, sizeof(written.path) - 1);
	if (length <= 0 || length == sizeof(written.path) - 1) {
		output_count_own(mounts[mount].cgroup_id, SECTION_FILES, OUTPUT_LOST); /* by half a name it cannot be told */
		return false;
	}
	/* The kernel says so behind the name that it had last. */
	if (file.stx_nlink == 0 && length > (ssize_t)strlen(DELETED) &&
	    memcmp(written.path + length - strlen(DELETED), DELETED, strlen(DELETED)) == 0)
		length -= strlen(DELETED);
	clock_gettime(CLOCK_BOOTTIME, &now);
	written.event.ktime_ns = (uint64_t)now.tv_sec * 1000000000ull + now.tv_nsec;
	written.event.cgroup_id = mounts[mount].cgroup_id;
	written.event.slot = mounts[mount].slot;
	written.path_length = length;
	written.inode = file.stx_ino;
	written.device = file.stx_dev_major << 20 | file.stx_dev_minor;
	written.ctime_ns = file.stx_ctime.tv_sec * 1000000000ull + file.stx_ctime.tv_nsec;
	written.size = file.stx_size;
	written.pid = event->pid;
	written.descriptor = event->fd;
	is_told = output_send(&written, sizeof(written), false);
	output_count_own(written.event.cgroup_id, SECTION_FILES, is_told ? OUTPUT_TOLD : OUTPUT_LOST);
	return is_told;
}

/* The kernel keeps 16,384 of them and then says that there were more: of whom, it does not say. */
static void tell_overflow(void)
{
	uint64_t before = 0;

	for (int i = 0; i < MOUNTS_MAX; i++) {
		if (mounts[i].cgroup_id && mounts[i].cgroup_id != before)
			output_count_own(mounts[i].cgroup_id, SECTION_FILES, OUTPUT_LOST);
		before = mounts[i].cgroup_id;
	}
}

void written_pump(void)
{
	char buffer[64 * FAN_EVENT_METADATA_LEN] __attribute__((aligned(8)));

	while (kept_count > 0 && kept[kept_begin].until_ms <= now_ms())
		let_go();
	for (int round = 0; watch >= 0 && round < ROUNDS_MAX; round++) {
		ssize_t got = read(watch, buffer, sizeof(buffer));
		struct fanotify_event_metadata *event = (void *)buffer;

		if (got <= 0)
			return;
		for (; FAN_EVENT_OK(event, got); event = FAN_EVENT_NEXT(event, got)) {
			if (event->mask & FAN_Q_OVERFLOW)
				tell_overflow();
			if (event->fd < 0)
				continue;
			if (tell(event))
				keep(event->fd);
			else
				close(event->fd);
		}
	}
}

int written_wait_on(void)
{
	return watch;
}

void written_end(void)
{
	if (watch >= 0)
		close(watch);
	watch = -1;
}
