// SPDX-License-Identifier: Apache-2.0
/* Orders of the agent. Each is answered by an acknowledgement with its request number. */
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include "sensor.h"

struct file_key {
	uint64_t inode;
	uint32_t device;
	uint32_t reserved;
};

struct file_value {
	uint64_t ctime_ns;
	uint64_t content;
};

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
		return groups_bind(options, programs, path, frame->cgroup_id, frame->slot,
				   frame->flags | GABION_CGROUP_BOUND, frame->device);
	case GABION_THAW:
		return groups_thaw(options, path, frame->cgroup_id);
	case GABION_KILL:
		return groups_write(options, path, frame->cgroup_id, "cgroup.kill", "1");
	default: /* UNBIND: what it did last is told before the answer */
		refuse_pump();
		refuse_forget(frame->cgroup_id);
		written_pump();
		written_forget(frame->cgroup_id);
		attach_forget(frame->cgroup_id);
		counters_give_back(programs, frame->cgroup_id, 0);
		error = groups_bind(options, programs, path, frame->cgroup_id, 0, GABION_CGROUP_SCOPE, 0);
		/* When nothing counts there any more: the last that it did is told, and its rows go. */
		events_send_stats(programs);
		return error == -ENOENT || error == -ESTALE ? 0 : error;
	}
}

/* An order about a container's files: its group's path, and entries behind it. */
static int with_entries(const struct control_frame *frame)
{
	char path[GABION_CGROUP_PATH_MAX];
	size_t skipped = (frame->path_length + 7) & ~7UL;
	int error = take_path(frame, path);
	const char *entries;
	size_t length;

	if (error)
		return error;
	if (frame->frame.length < sizeof(*frame) + skipped)
		return -EBADMSG;
	entries = (const char *)(frame + 1) + skipped;
	length = frame->frame.length - sizeof(*frame) - skipped;
	return frame->frame.type == GABION_WATCH ? written_watch(frame, entries, length) :
						   refuse_protect(frame, path, entries, length);
}

void control_handle(struct programs *programs, const struct options *options, const struct control_frame *frame)
{
	int error;

	switch (frame->frame.type) {
	case GABION_SLOT_LOAD:
		error = slots_load(programs, frame);
		break;
	case GABION_SLOT_DROP:
		error = slots_drop(programs, frame->slot);
		break;
	case GABION_SENSE:
		error = attach_on_demand(frame->flags);
		break;
	case GABION_PROTECT:
	case GABION_WATCH:
		error = with_entries(frame);
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
