// SPDX-License-Identifier: Apache-2.0
/* The cgroup v2 file system. Nothing outside the watched tree is ever opened for writing. */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "sensor.h"

#define HOLDS_MAX 256
#define DEPTH_MAX 1024

/* As contained.bpf.h has it. */
struct contained_process {
	uint64_t exe_hash, container_id, has_left;
};

struct group_calls {
	uint32_t flags, reserved;
	uint64_t seen[2 * GABION_SYSCALLS / 64];
};

/* Shared with the watchdog, which lets them go on where this process cannot any more. */
static struct hold {
	uint64_t id;
	uint64_t deadline_ms;
	char path[GABION_CGROUP_PATH_MAX];
} *holds;

bool groups_share_holds(void)
{
	holds = mmap(NULL, HOLDS_MAX * sizeof(*holds), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return holds != MAP_FAILED;
}

static bool is_in_scope(const struct options *options, const char *path)
{
	size_t length = strlen(options->scope), end = strlen(path);

	if (path[0] != '/' || strstr(path, "/../") || strstr(path, "//"))
		return false;
	if (end >= 3 && strcmp(path + end - 3, "/..") == 0)
		return false;
	if (strcmp(options->scope, "/") == 0)
		return path[1] != 0;
	return strncmp(path, options->scope, length) == 0 && path[length] == '/';
}

/* Opens a group only if the path still leads to the very group that is meant. */
static int open_group(const struct options *options, const char *path, uint64_t id)
{
	char full[GABION_CGROUP_PATH_MAX + 256];
	struct stat status;
	int directory;

	if (!is_in_scope(options, path))
		return -EPERM;
	snprintf(full, sizeof(full), "%s%s", options->mount, path);
	directory = open(full, O_DIRECTORY | O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (directory < 0)
		return -errno;
	if (fstat(directory, &status) < 0 || status.st_ino != id) {
		close(directory);
		return -ESTALE;
	}
	return directory;
}

int groups_write(const struct options *options, const char *path, uint64_t id, const char *file, const char *value)
{
	int directory = open_group(options, path, id), target, error = 0;

	if (directory < 0)
		return directory;
	target = openat(directory, file, O_WRONLY | O_CLOEXEC);
	if (target < 0) /* a kernel without this file, not a group that is gone */
		error = errno == ENOENT ? -EOPNOTSUPP : -errno;
	else if (write(target, value, strlen(value)) < 0)
		error = -errno;
	if (target >= 0)
		close(target);
	close(directory);
	return error;
}

bool groups_hold(const struct options *options, const char *path, uint64_t id)
{
	for (int i = 0; i < HOLDS_MAX; i++) {
		if (holds[i].id)
			continue;
		/* Noted before it is done: whatever becomes of this process, it is let go on. */
		holds[i].deadline_ms = now_ms() + options->hold_ms;
		snprintf(holds[i].path, sizeof(holds[i].path), "%s", path);
		__atomic_store_n(&holds[i].id, id, __ATOMIC_SEQ_CST);
		if (groups_write(options, path, id, "cgroup.freeze", "1") < 0) {
			holds[i].id = 0;
			return false;
		}
		return true;
	}
	return false;
}

static int thaw_at(const struct options *options, int i)
{
	int error = groups_write(options, holds[i].path, holds[i].id, "cgroup.freeze", "0");

	holds[i].id = 0;
	return error == -ENOENT ? 0 : error;
}

/* Also for a group that another sensor held before this one was started. */
int groups_thaw(const struct options *options, const char *path, uint64_t id)
{
	int error;

	for (int i = 0; i < HOLDS_MAX; i++)
		if (holds[i].id == id)
			return thaw_at(options, i);
	error = groups_write(options, path, id, "cgroup.freeze", "0");
	return error == -ENOENT || error == -ESTALE ? 0 : error;
}

/* A container is never held for longer than the bound, whatever became of the agent; that it went on is reported. */
void groups_expire_holds(const struct options *options)
{
	uint64_t now = now_ms();

	for (int i = 0; i < HOLDS_MAX; i++) {
		struct hold_frame frame = {
			.frame = { .length = sizeof(frame), .type = GABION_HOLD_EXPIRED, .version = GABION_WIRE_VERSION },
			.cgroup_id = holds[i].id,
		};

		if (!holds[i].id || holds[i].deadline_ms > now)
			continue;
		thaw_at(options, i);
		output_send(&frame, sizeof(frame), true);
	}
}

void groups_thaw_all(const struct options *options)
{
	for (int i = 0; i < HOLDS_MAX; i++)
		if (holds[i].id)
			thaw_at(options, i);
}

/* Who ran in a container before it was watched is the container's own too: its files and system calls count. */
static void mark_running(const struct programs *programs, int directory, uint64_t container_id)
{
	int list = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	FILE *stream = list < 0 ? NULL : fdopen(list, "r");
	struct contained_process running = { .container_id = container_id }; /* its program's path is hashed when it is needed */
	uint32_t pid;

	if (!stream)
		return;
	while (fscanf(stream, "%u", &pid) == 1)
		bpf_map_update_elem(programs->contained, &pid, &running, BPF_NOEXIST);
	fclose(stream);
}

/* What the programs at system calls look at; a group that is not bound has none. */
static int put_calls(const struct programs *programs, int directory, uint32_t flags)
{
	struct group_calls calls = { .flags = flags };
	int error = 0;

	if (!(flags & GABION_CGROUP_BOUND))
		bpf_map_delete_elem(programs->group_calls, &directory);
	else if (bpf_map_update_elem(programs->group_calls, &directory, &calls, BPF_ANY) < 0)
		error = -errno;
	/* Afterwards: what is noted from the old ones meanwhile is of the epoch before. */
	for (int place = 0; place < GABION_QUIET_PLACES; place++)
		__atomic_fetch_add(&programs->quiet_calls[place].epoch, 1, __ATOMIC_SEQ_CST);
	return error;
}

/* Gives a group and all below it a policy, and notes who runs there; with `only_new` those that have one keep it. */
static int put_tree(int directory, const struct programs *programs, struct cgroup_policy policy, bool only_new,
		    uint32_t nested_flag, int depth, bool is_running)
{
	struct stat status;
	struct dirent *entry;
	DIR *stream;
	uint64_t id;
	int error = 0;

	if (depth > DEPTH_MAX || fstat(directory, &status) < 0) {
		close(directory);
		return 0; /* too deep, or it has gone */
	}
	id = status.st_ino;
	if (!(policy.flags & GABION_CGROUP_BOUND))
		policy.container_id = id;
	if (bpf_map_update_elem(programs->cgroups, &id, &policy, only_new ? BPF_NOEXIST : BPF_ANY) < 0 && errno != EEXIST)
		error = -errno;
	if (!error && !only_new)
		error = put_calls(programs, directory, policy.flags);
	if (is_running)
		mark_running(programs, directory, policy.container_id);
	stream = fdopendir(directory);
	if (!stream) {
		close(directory);
		return -errno;
	}
	policy.flags |= nested_flag;
	while (!error && (entry = readdir(stream))) {
		int child;

		if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		child = openat(directory, entry->d_name, O_DIRECTORY | O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (child >= 0)
			error = put_tree(child, programs, policy, only_new, nested_flag, depth + 1, is_running);
	}
	closedir(stream);
	return error;
}

int groups_adopt_tree(const struct options *options, const struct programs *programs)
{
	struct cgroup_policy policy = { .flags = GABION_CGROUP_SCOPE };
	char full[GABION_CGROUP_PATH_MAX + 256];
	int directory;

	snprintf(full, sizeof(full), "%s%s", options->mount, options->scope);
	directory = open(full, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (directory < 0)
		return -errno;
	return put_tree(directory, programs, policy, true, 0, 0, false);
}

int groups_bind(const struct options *options, struct programs *programs, const char *path, uint64_t id,
		uint32_t slot, uint32_t flags, uint32_t device)
{
	struct cgroup_policy policy = { .slot = slot, .flags = flags & ~GABION_CGROUP_RUNNING, .container_id = id, .device = device };
	struct cgroup_policy in_force = { 0 };
	int directory = open_group(options, path, id), error;

	if (directory < 0)
		return directory;
	error = attach_container(id, directory, flags);
	if (error) {
		close(directory);
		return error;
	}
	if (flags & GABION_CGROUP_BOUND)
		policy.counters = counters_take(programs, id, slot);
	error = put_tree(directory, programs, policy, false, flags & GABION_CGROUP_BOUND ? GABION_CGROUP_NESTED : 0, 0,
			 flags & GABION_CGROUP_RUNNING);
	/* Nothing counts in others any more. Where the policy could not be put, the one before stays, and so do its counters. */
	if (error) {
		bpf_map_lookup_elem(programs->cgroups, &id, &in_force);
		policy.counters = in_force.counters;
	}
	counters_give_back(programs, id, policy.counters);
	return error;
}
