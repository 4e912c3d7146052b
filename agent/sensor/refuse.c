// SPDX-License-Identifier: Apache-2.0
/*
 * Opens and execs that fail with EPERM, by fanotify: the one way to refuse where the kernel has no BPF LSM. Folders are
 * marked, not files, so that what takes a file's place is covered too. A thread of its own answers from memory and from
 * /proc, never from a marked file system, and waits for nobody; when this process ends the kernel lets everything go on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "sensor.h"

#define QUEUE_MAX 1024
#define LINE_MAX_BYTES 256
/* Refusals of one container that are told: more say nothing new. As REFUSED_PER_SECOND of the kernel programs. */
#define TOLD_PER_SECOND 1000

struct entry {
	uint32_t flags;
	char *host; /* folder on the host that is marked */
	char *path; /* inside the container */
	bool is_told;
};

struct protected {
	uint64_t cgroup_id;
	uint32_t slot;
	bool is_listed; /* running anything that is not listed is refused */
	char group[GABION_CGROUP_PATH_MAX];
	struct entry *entries;
	uint32_t count;
	uint64_t second;  /* for which `told` counts */
	uint32_t told[2]; /* opens and execs */
	uint64_t lost[2], throttled[2]; /* until the main thread counts them */
	struct protected *next;
};

static int watch = -1, ending = -1, told = -1;
static pthread_t thread;
static bool is_running;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct protected *containers;
static struct refused_event queue[QUEUE_MAX];
static uint32_t queue_begin, queue_count;

static uint64_t mask_of(uint32_t flags)
{
	return (flags & GABION_PROTECT_WRITE ? FAN_OPEN_PERM : 0) |
	       (flags & (GABION_PROTECT_EXEC | GABION_PROTECT_LISTED) ? FAN_OPEN_EXEC_PERM : 0) | FAN_EVENT_ON_CHILD;
}

static ssize_t read_text(const char *path, char *text, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	if (file < 0)
		return -errno;
	got = read(file, text, size - 1);
	close(file);
	text[got > 0 ? got : 0] = 0;
	return got;
}

/* The protected container that a task is in. Called with the lock held. */
static struct protected *container_of_task(int task)
{
	static char text[16 * 1024]; /* the lines of cgroup v1 come first */
	char path[64], *line;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", task);
	if (read_text(path, text, sizeof(text)) <= 0)
		return NULL;
	line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
	if (!line)
		return NULL;
	line = strchr(line, '/');
	line[strcspn(line, "\n")] = 0;
	for (struct protected *each = containers; each; each = each->next) {
		size_t length = strlen(each->group);

		if (strncmp(line, each->group, length) == 0 && (line[length] == 0 || line[length] == '/'))
			return each;
	}
	return NULL;
}

/*
 * The call that a task waits in, with its registers. For a moment it may not wait yet: it must soon, because it waits for
 * us.
 */
static bool read_call(int task, char *text, size_t size)
{
	struct timespec brief = { .tv_nsec = 50000 };
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/syscall", task);
	for (int tries = 0; tries < 20; tries++) {
		if (read_text(path, text, size) <= 0)
			return false;
		if (strncmp(text, "running", 7) != 0)
			return true;
		nanosleep(&brief, NULL);
	}
	return false;
}

/* Whether the open that a task waits in is for writing. What cannot be told counts as writing: only files that a rule
 * denies come here. */
static bool is_for_writing(int task)
{
	char text[LINE_MAX_BYTES];
	unsigned long long arguments[6];
	long number;

	if (!read_call(task, text, sizeof(text)))
		return true;
	if (sscanf(text, "%ld %llx %llx %llx %llx %llx %llx", &number, &arguments[0], &arguments[1], &arguments[2],
		   &arguments[3], &arguments[4], &arguments[5]) < 4)
		return true;
	switch (number) {
#ifdef SYS_open
	case SYS_open:
		return (arguments[1] & (O_ACCMODE | O_CREAT | O_TRUNC)) != 0;
#endif
	/* Of the 32-bit table: by these numbers the other one opens nothing. */
	case 5:
		return (arguments[1] & (O_ACCMODE | O_CREAT | O_TRUNC)) != 0;
	case 295:
	case SYS_openat:
		return (arguments[2] & (O_ACCMODE | O_CREAT | O_TRUNC)) != 0;
	case SYS_execve:
	case SYS_execveat:
	case 11: /* and both of the 32-bit table */
	case 358:
		return false;
	default: /* openat2 keeps its flags in memory that another thread may change; io_uring has none here */
		return true;
	}
}

/* Calls in which a listed program was let through, by task. */
static struct {
	int task;
	char call[LINE_MAX_BYTES];
} passed[256];

static void note_passed(int task)
{
	uint32_t at = (uint32_t)task % 256;

	passed[at].task = read_call(task, passed[at].call, sizeof(passed[at].call)) ? task : 0;
}

/*
 * A program's interpreter is opened in the same call as the program: registers and stack pointer are the same. Once for
 * each interpreter that may follow, and only after a listed program; whoever repeats the call for another file still meets
 * the exec hook.
 */
static bool is_continuation(int task)
{
	char text[LINE_MAX_BYTES];
	uint32_t at = (uint32_t)task % 256;

	return passed[at].task == task && read_call(task, text, sizeof(text)) && strcmp(passed[at].call, text) == 0;
}

static bool names(const struct entry *entry, const char *path)
{
	if (entry->flags & GABION_PROTECT_MARK)
		return false;
	if (entry->flags & GABION_PROTECT_DIRECTORY)
		return strncmp(path, entry->path, strlen(entry->path)) == 0;
	return strcmp(path, entry->path) == 0;
}

/* With the entry that refuses it; null where it is refused because none lists it. */
static bool is_refused(const struct protected *container, const char *path, bool is_exec, int task, struct entry **by)
{
	bool is_listed = false;

	for (uint32_t i = 0; i < container->count; i++) {
		struct entry *entry = &container->entries[i];

		if (!names(entry, path))
			continue;
		*by = entry;
		if (entry->flags & (is_exec ? GABION_PROTECT_EXEC : GABION_PROTECT_WRITE))
			return is_exec || is_for_writing(task);
		*by = NULL;
		if (entry->flags & GABION_PROTECT_LISTED)
			is_listed = true;
	}
	if (!is_exec || !container->is_listed)
		return false;
	if (is_listed) {
		note_passed(task);
		return false;
	}
	if (is_continuation(task))
		return false;
	passed[(uint32_t)task % 256].task = 0;
	return true;
}

/* False where the container has had its share of this second. The first refusal of each entry is always told. */
static bool take_token(struct protected *container, struct entry *entry, bool is_exec)
{
	uint64_t second = now_ms() / 1000;
	bool is_first = entry && !entry->is_told;

	if (container->second != second) {
		container->second = second;
		memset(container->told, 0, sizeof(container->told));
	}
	if (entry)
		entry->is_told = true;
	return container->told[is_exec]++ < TOLD_PER_SECOND || is_first;
}

static void enqueue(struct protected *container, struct entry *entry, int task, const char *path, bool is_exec)
{
	struct refused_event *event;
	struct timespec now;
	size_t length = strlen(path);

	if (!take_token(container, entry, is_exec) || queue_count == QUEUE_MAX) {
		if (queue_count == QUEUE_MAX)
			container->lost[is_exec]++;
		else
			container->throttled[is_exec]++;
		eventfd_write(told, 1);
		return;
	}
	event = &queue[(queue_begin + queue_count++) % QUEUE_MAX];
	memset(event, 0, sizeof(*event));
	clock_gettime(CLOCK_BOOTTIME, &now);
	event->event.frame.length = sizeof(*event);
	event->event.frame.type = GABION_REFUSED;
	event->event.frame.version = GABION_WIRE_VERSION;
	event->event.frame.outcome = GABION_DENIED;
	event->event.ktime_ns = (uint64_t)now.tv_sec * 1000000000ull + now.tv_nsec;
	event->event.cgroup_id = container->cgroup_id;
	event->event.slot = container->slot;
	event->pid = task;
	event->is_exec = is_exec;
	event->path_length = length < GABION_PATH_MAX ? length : GABION_PATH_MAX - 1;
	memcpy(event->path, path, event->path_length);
	eventfd_write(told, 1);
}

static uint32_t decide(const struct fanotify_event_metadata *event)
{
	char link[64], path[4096];
	bool is_exec = event->mask & FAN_OPEN_EXEC_PERM, refuse = false;
	struct protected *container;
	struct entry *by = NULL;
	ssize_t length;

	pthread_mutex_lock(&lock);
	container = container_of_task(event->pid);
	if (container) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", event->fd);
		length = readlink(link, path, sizeof(path) - 1);
		if (length > 0) {
			path[length] = 0;
			refuse = is_refused(container, path, is_exec, event->pid, &by);
			if (refuse)
				enqueue(container, by, event->pid, path, is_exec);
		}
	}
	pthread_mutex_unlock(&lock);
	return refuse ? FAN_DENY : FAN_ALLOW;
}

static void answer_all(void)
{
	char buffer[64 * FAN_EVENT_METADATA_LEN] __attribute__((aligned(8)));
	ssize_t got = read(watch, buffer, sizeof(buffer));
	struct fanotify_event_metadata *event = (void *)buffer;

	for (; got > 0 && FAN_EVENT_OK(event, got); event = FAN_EVENT_NEXT(event, got)) {
		if (event->mask & (FAN_OPEN_PERM | FAN_OPEN_EXEC_PERM)) {
			struct fanotify_response response = { .fd = event->fd, .response = decide(event) };

			while (write(watch, &response, sizeof(response)) < 0 && errno == EINTR)
				;
		}
		if (event->fd >= 0)
			close(event->fd);
	}
}

/* When the thread began what it is doing, 0 while it waits. */
static volatile uint64_t busy_since_ms;

/* True where a decision does not come to an end: then this process must, so that everything waiting goes on. */
bool refuse_is_stuck(void)
{
	uint64_t since = busy_since_ms;

	return since && now_ms() - since > 1000;
}

static void *answer(void *unused)
{
	struct pollfd polled[] = { { .fd = watch, .events = POLLIN }, { .fd = ending, .events = POLLIN } };

	(void)unused;
	while (poll(polled, 2, -1) >= 0 || errno == EINTR) {
		if (polled[1].revents)
			break;
		busy_since_ms = now_ms();
		if (polled[0].revents)
			answer_all();
		busy_since_ms = 0;
	}
	return NULL;
}

bool refuse_start(void)
{
	watch = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS |
				      FAN_REPORT_TID,
			      /* not blocking: a FIFO in a marked folder must not be waited for */
			      O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NONBLOCK);
	ending = eventfd(0, EFD_CLOEXEC);
	told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (watch < 0 || ending < 0 || told < 0)
		return false;
	is_running = pthread_create(&thread, NULL, answer, NULL) == 0;
	return is_running;
}

static void release(struct protected *container)
{
	for (uint32_t i = 0; i < container->count; i++) {
		free(container->entries[i].host);
		free(container->entries[i].path);
	}
	free(container->entries);
	free(container);
}

/* What is still waited for in a folder. */
static uint64_t needed_mask(const char *host)
{
	uint64_t mask = 0;

	for (struct protected *each = containers; each; each = each->next)
		for (uint32_t i = 0; i < each->count; i++)
			if (each->entries[i].host[0] && strcmp(each->entries[i].host, host) == 0)
				mask |= mask_of(each->entries[i].flags);
	return mask;
}

/* Marks that nobody needs any more go, so that nothing waits for an answer that is always yes. */
static void unmark(const struct protected *container)
{
	for (uint32_t i = 0; i < container->count; i++) {
		const struct entry *entry = &container->entries[i];
		uint64_t mask = entry->host[0] ? mask_of(entry->flags) & ~needed_mask(entry->host) : 0;

		if (mask)
			fanotify_mark(watch, FAN_MARK_REMOVE | FAN_MARK_ONLYDIR, mask, AT_FDCWD, entry->host);
	}
}

/* Takes a container's entry out of the list, under the lock; the marks go after, outside it. */
static struct protected *take(uint64_t cgroup_id)
{
	for (struct protected **at = &containers; *at; at = &(*at)->next) {
		struct protected *found = *at;

		if (found->cgroup_id == cgroup_id) {
			*at = found->next;
			return found;
		}
	}
	return NULL;
}

static uint32_t section_of(bool is_exec)
{
	return is_exec ? SECTION_PROCESS : SECTION_FILES;
}

static void count_untold(struct protected *container)
{
	for (int is_exec = 0; is_exec < 2; is_exec++) {
		for (; container->lost[is_exec] > 0; container->lost[is_exec]--)
			output_count_own(container->cgroup_id, section_of(is_exec), OUTPUT_LOST);
		for (; container->throttled[is_exec] > 0; container->throttled[is_exec]--)
			output_count_own(container->cgroup_id, section_of(is_exec), OUTPUT_THROTTLED);
	}
}

void refuse_forget(uint64_t cgroup_id)
{
	struct protected *old;

	pthread_mutex_lock(&lock);
	old = take(cgroup_id);
	pthread_mutex_unlock(&lock);
	if (!old)
		return;
	count_untold(old);
	unmark(old);
	release(old);
}

static int parse_entries(struct protected *container, uint32_t count, const char *at, size_t length)
{
	const char *end = at + length;

	container->entries = calloc(count ? count : 1, sizeof(*container->entries));
	if (!container->entries)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const struct protect_entry *entry = (const void *)at;
		uint64_t texts;

		if (end - at < (ptrdiff_t)sizeof(*entry))
			return -EBADMSG;
		texts = (uint64_t)entry->host_length + entry->path_length;
		if ((uint64_t)(end - at) < sizeof(*entry) + texts)
			return -EBADMSG;
		at += sizeof(*entry);
		container->entries[i].flags = entry->flags;
		container->entries[i].host = strndup(at, entry->host_length);
		container->entries[i].path = strndup(at + entry->host_length, entry->path_length);
		container->count = i + 1;
		if (!container->entries[i].host || !container->entries[i].path)
			return -ENOMEM;
		if (entry->flags & GABION_PROTECT_LISTED)
			container->is_listed = true;
		at += (texts + 7) & ~7ULL;
	}
	return 0;
}

/* Replaces what is refused in a container; with nothing to refuse it is forgotten. A folder that is gone is passed over. */
int refuse_protect(const struct control_frame *frame, const char *group, const char *entries, size_t length)
{
	struct protected *container, *old;
	int error;

	if (!is_running)
		return frame->count ? -EOPNOTSUPP : 0;
	if (frame->count == 0) {
		refuse_forget(frame->cgroup_id);
		return 0;
	}
	container = calloc(1, sizeof(*container));
	if (!container)
		return -ENOMEM;
	container->cgroup_id = frame->cgroup_id;
	container->slot = frame->slot;
	snprintf(container->group, sizeof(container->group), "%s", group);
	error = parse_entries(container, frame->count, entries, length);
	if (error) {
		release(container);
		return error;
	}
	pthread_mutex_lock(&lock);
	old = take(frame->cgroup_id);
	if (old) {
		memcpy(container->lost, old->lost, sizeof(old->lost));
		memcpy(container->throttled, old->throttled, sizeof(old->throttled));
		container->second = old->second;
		memcpy(container->told, old->told, sizeof(old->told));
	}
	container->next = containers;
	containers = container;
	pthread_mutex_unlock(&lock);
	for (uint32_t i = 0; i < container->count; i++)
		if (container->entries[i].host[0] &&
		    fanotify_mark(watch, FAN_MARK_ADD | FAN_MARK_ONLYDIR, mask_of(container->entries[i].flags), AT_FDCWD,
				  container->entries[i].host) < 0 &&
		    errno != ENOENT && errno != ENOTDIR)
			error = -errno;
	if (old) {
		unmark(old);
		release(old);
	}
	return error;
}

int refuse_wait_on(void)
{
	return told;
}

void refuse_pump(void)
{
	static struct refused_event taken[QUEUE_MAX];
	uint32_t count;
	eventfd_t times;

	if (told >= 0)
		eventfd_read(told, &times);
	pthread_mutex_lock(&lock);
	for (count = 0; queue_count > 0; count++, queue_count--) {
		taken[count] = queue[queue_begin];
		queue_begin = (queue_begin + 1) % QUEUE_MAX;
	}
	for (struct protected *each = containers; each; each = each->next)
		count_untold(each);
	pthread_mutex_unlock(&lock);
	for (uint32_t i = 0; i < count; i++) {
		bool is_told = output_send(&taken[i], sizeof(taken[i]), false);

		output_count_own(taken[i].event.cgroup_id, section_of(taken[i].is_exec), is_told ? OUTPUT_TOLD : OUTPUT_LOST);
	}
}

/* Closing the watch lets everything go on that waits for an answer. */
void refuse_end(void)
{
	uint64_t one = 1;

	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	if (is_running && write(ending, &one, sizeof(one)) == sizeof(one))
		pthread_timedjoin_np(thread, NULL, &until);
	is_running = false;
	if (watch >= 0)
		close(watch);
	if (ending >= 0)
		close(ending);
	if (told >= 0)
		close(told);
	watch = ending = told = -1;
}
