// SPDX-License-Identifier: Apache-2.0
/*
 * What is asked for through io_uring, where no system call tells it: files changed and packet sockets. Connections and
 * other sockets come by the control group's programs, refusals by the file system watch. Told when it is asked for, not
 * when it is done: the names are gone by then, and a request may ask for no completion.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "gabion_wire.h"
#include "gabion_hash.h"
#include "maps.bpf.h"
#include "path_walk.bpf.h"
#define READS_ACTOR
#include "actor.bpf.h"
#include "policy.bpf.h"
#include "act.bpf.h"
#include "text_hash.bpf.h"
#include "contained.bpf.h"
#include "file_decide.bpf.h"
#include "file_tell.bpf.h"
#include "packet_socket.bpf.h"

char LICENSE[] SEC("license") = "GPL";

/* Numbers of linux/io_uring.h. */
#define OP_OPENAT 18
#define OP_OPENAT2 28
#define OP_RENAMEAT 35
#define OP_UNLINKAT 36
#define OP_SYMLINKAT 38
#define OP_LINKAT 39
#define OP_SOCKET 45

/* What a request was made into, by the operation's own type; it begins where the request does. */
#define command(request, type) \
	((struct type *)bpf_rdonly_cast((request), bpf_core_type_id_kernel(struct type)))

static __always_inline void take_path(struct path_act *act, __u32 operation, int folder, struct filename *name)
{
	act->operation = operation;
	act->folder = folder;
	act->path = name->name;
}

static __always_inline void take_target(struct path_act *act, int folder, struct filename *name)
{
	act->target_folder = folder;
	act->target = name->name;
}

/* Operation 0 where nothing is changed. */
static __always_inline struct path_act act_of(struct io_kiocb *request)
{
	struct path_act act = { .is_copied = true, .flags = GABION_FILE_RING };
	struct io_rename *rename = command(request, io_rename);
	struct io_unlink *unlink = command(request, io_unlink);
	struct io_link *link = command(request, io_link);
	struct io_open *open = command(request, io_open);

	switch (request->opcode) {
	case OP_OPENAT:
	case OP_OPENAT2:
		if (!(open->how.flags & OPEN_CHANGES))
			break;
		act.flags |= GABION_FILE_FOLLOWED;
		take_path(&act, open->how.flags & O_CREAT ? GABION_FILE_CREATE : GABION_FILE_WRITE, open->dfd, open->filename);
		break;
	case OP_RENAMEAT:
		take_path(&act, GABION_FILE_RENAME, rename->old_dfd, rename->oldpath);
		take_target(&act, rename->new_dfd, rename->newpath);
		break;
	case OP_UNLINKAT:
		take_path(&act, GABION_FILE_DELETE, unlink->dfd, unlink->filename);
		break;
	case OP_SYMLINKAT:
		take_path(&act, GABION_FILE_CREATE, link->new_dfd, link->newpath);
		break;
	case OP_LINKAT:
		if (link->flags & AT_SYMLINK_FOLLOW)
			act.flags |= GABION_FILE_FOLLOWED;
		take_path(&act, GABION_FILE_LINK, link->old_dfd, link->oldpath);
		take_target(&act, link->new_dfd, link->newpath);
		break;
	}
	return act;
}

SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(handle_submit, struct io_kiocb *request)
{
	__u8 opcode = request->opcode;
	struct contained_process *process;
	struct cgroup_policy *policy;
	struct task_struct *task;
	struct path_act act;
	__u64 cgroup_id;

	/* Nearly all requests read, write, wait, send or receive. */
	if (opcode != OP_OPENAT && opcode != OP_OPENAT2 && (opcode < OP_RENAMEAT || opcode > OP_LINKAT) && opcode != OP_SOCKET)
		return 0;
	cgroup_id = bpf_get_current_cgroup_id();
	policy = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	if (!policy || !(policy->flags & GABION_CGROUP_BOUND))
		return 0;
	if (opcode == OP_SOCKET) {
		struct io_socket *socket = command(request, io_socket);

		if (policy->flags & GABION_CGROUP_NETWORK && is_packet_socket(socket->domain, socket->type))
			handle_packet_socket(policy, socket->domain, socket->type, socket->protocol);
		return 0;
	}
	if (!(policy->flags & GABION_CGROUP_FILES))
		return 0;
	/* A thread of the kernel's own that takes requests is one of the process's threads. */
	task = bpf_get_current_task_btf();
	process = contained_of(task->tgid);
	if (!process)
		return 0;
	act = act_of(request);
	if (act.operation)
		tell_path(policy, process, &act);
	return 0;
}
