// SPDX-License-Identifier: Apache-2.0
/* Processes: what containers execute, decided before the first instruction of the new program. */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "gabion_wire.h"
#include "gabion_hash.h"
#include "maps.bpf.h"
#include "path_walk.bpf.h"
#include "exec_hash.bpf.h"
#include "exec_decide.bpf.h"

#define OVERLAY_MAGIC 0x794c7630
#define SIGKILL 9
#define CTIME_NSEC_MASK 0x3fffffff /* I_CTIME_QUERIED lies above */

char LICENSE[] SEC("license") = "GPL";

const volatile __u32 host_mount_ns;
const volatile __u32 host_pid_ns;
const volatile bool has_container_kill;
const volatile bool is_measuring;

/* Both since 6.13; without them a container is ended by the loader alone. */
extern struct task_struct *bpf_task_from_vpid(__s32 vpid) __ksym __weak;
extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type, __u64 value) __ksym __weak;
extern void bpf_task_release(struct task_struct *task) __ksym __weak;

/* Processes whose exec was sent, so that their end is sent too. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64); /* start time */
} sent_processes SEC(".maps");

static __always_inline __u64 change_time(struct inode *inode)
{
	struct inode___6_6 *since_6_6 = (void *)inode;
	struct inode___old *old = (void *)inode;

	/* split into two fields in 6.11, renamed in 6.6; since 6.13 the top bit of the nanoseconds is a flag */
	if (bpf_core_field_exists(inode->i_ctime_sec))
		return inode->i_ctime_sec * 1000000000ULL + (inode->i_ctime_nsec & CTIME_NSEC_MASK);
	if (bpf_core_field_exists(since_6_6->__i_ctime))
		return BPF_CORE_READ(since_6_6, __i_ctime.tv_sec) * 1000000000ULL +
		       BPF_CORE_READ(since_6_6, __i_ctime.tv_nsec);
	return BPF_CORE_READ(old, i_ctime.tv_sec) * 1000000000ULL + BPF_CORE_READ(old, i_ctime.tv_nsec);
}

/* In an overlay the kernel knows whether a file is the image's: then nothing of it is in the upper layer. */
static __always_inline void read_overlay(struct exec_event *event, struct inode *inode, __u32 root_device)
{
	struct ovl_inode *overlay;

	event->flags |= GABION_EXEC_OVERLAY;
	/* An overlay that the container mounted itself has a lower layer too, but not the image's. */
	if (!bpf_core_type_exists(struct ovl_inode) || event->device != root_device)
		return;
	overlay = bpf_rdonly_cast((char *)inode - bpf_core_field_offset(struct ovl_inode, vfs_inode),
				  bpf_core_type_id_kernel(struct ovl_inode));
	if (!overlay->__upperdentry) {
		event->content = GABION_CONTENT_IMAGE;
		return;
	}
	event->flags |= GABION_EXEC_OVERLAY_UPPER;
	if (bpf_core_field_exists(overlay->oe) && !overlay->oe)
		event->flags |= GABION_EXEC_OVERLAY_NEW;
}

static __always_inline void read_file(struct exec_event *event, struct file *file, __u32 root_device)
{
	struct inode *inode = file->f_inode;
	struct super_block *block = inode->i_sb;
	struct file_key key = {};
	struct file_value *known;

	event->inode = inode->i_ino;
	event->device = block->s_dev;
	event->ctime_ns = change_time(inode);
	if (inode->i_nlink == 0)
		event->flags |= GABION_EXEC_UNLINKED;
	if (block->s_magic == OVERLAY_MAGIC)
		read_overlay(event, inode, root_device);
	if (event->content || event->flags & GABION_EXEC_UNLINKED)
		return;
	key.inode = event->inode;
	key.device = event->device;
	known = bpf_map_lookup_elem(&files, &key);
	if (!known || known->ctime_ns != event->ctime_ns)
		return;
	/* What stands in the upper layer was changed, whatever a late look at the file may have said. */
	if (known->content == GABION_CONTENT_IMAGE && event->flags & GABION_EXEC_OVERLAY_UPPER)
		return;
	event->content = known->content;
}

static __always_inline void read_task(struct exec_event *event, struct task_struct *task)
{
	__u64 uid_gid = bpf_get_current_uid_gid();
	struct task_struct *parent = task->real_parent->group_leader;
	struct pid *pid = task->thread_pid;
	__u32 level = pid->level;
	struct upid upid;

	event->pid = task->tgid;
	event->start_ns = task->group_leader->start_boottime;
	event->parent_pid = parent->tgid;
	event->parent_start_ns = parent->start_boottime;
	event->uid = uid_gid;
	event->gid = uid_gid >> 32;
	bpf_probe_read_kernel(&upid, sizeof(upid),
			      (char *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid));
	event->pid_ns = BPF_CORE_READ(upid.ns, ns.inum);
	if (upid.nr == 1)
		event->flags |= GABION_EXEC_FIRST_PROCESS;
}

static __always_inline void read_walked(__u8 *target, __u32 size, __u16 *length, struct path_buffer *buffer,
					struct walked_path walked)
{
	__u32 offset = walked.offset & (GABION_PATH_MAX - 1);

	/* As much as the field takes: behind the path the buffer is zero, so the copy is padded. */
	bpf_probe_read_kernel(target, size, &buffer->bytes[offset]);
	*length = walked.length < size ? walked.length : size - 1;
}

static __always_inline void read_arguments(struct exec_event *event, struct mm_struct *mm)
{
	unsigned long start = mm->arg_start;
	unsigned long length = mm->arg_end - start;

	if (length > GABION_ARGV_MAX - 1) {
		length = GABION_ARGV_MAX - 1;
		event->flags |= GABION_EXEC_ARGV_TRUNCATED;
	}
	length &= GABION_ARGV_MAX - 1;
	/* What the event before this one left behind must not be taken for a name. */
	event->argv[0] = 0;
	if (bpf_probe_read_user(event->argv, length, (void *)start) < 0) {
		length = 0;
		event->flags |= GABION_EXEC_NAME_TRUNCATED; /* the name is not known: not the kernel's to decide */
	}
	event->argv[length & (GABION_ARGV_MAX - 1)] = 0;
	event->argv_length = length;
}

static __always_inline bool read_texts(struct exec_scratch *s, struct task_struct *task, struct linux_binprm *bprm)
{
	struct exec_event *event = &s->event;
	struct file *file = bprm->file;
	struct dentry *dentry = file->f_path.dentry;
	__u32 zero = 0;
	struct path_buffer *buffer = bpf_map_lookup_elem(&path_buffers, &zero);
	struct walked_path walked;
	long length;

	if (!buffer)
		return false;
	walked = walk_path(buffer, dentry, file->f_path.mnt);
	read_walked(event->path, GABION_PATH_MAX, &event->path_length, buffer, walked);
	if (walked.is_truncated)
		event->flags |= GABION_EXEC_PATH_TRUNCATED;
	if (event->path[0] != '/')
		event->flags |= GABION_EXEC_MEMFD;

	length = bpf_probe_read_kernel_str(event->filename, GABION_FILENAME_MAX, bprm->filename);
	event->filename_length = length > 0 ? length - 1 : 0;
	if (length >= GABION_FILENAME_MAX)
		event->flags |= GABION_EXEC_NAME_TRUNCATED;
	if (bprm->interp != bprm->filename)
		event->flags |= GABION_EXEC_SCRIPT;

	event->cwd_length = 0;
	if (event->filename[0] != '/' && event->flags & GABION_EXEC_SCRIPT) {
		struct fs_struct *fs = task->fs;

		walked = walk_path(buffer, fs->pwd.dentry, fs->pwd.mnt);
		read_walked(event->cwd, GABION_CWD_MAX, &event->cwd_length, buffer, walked);
		if (walked.is_truncated || walked.length >= GABION_CWD_MAX)
			event->flags |= GABION_EXEC_NAME_TRUNCATED;
	}
	read_arguments(event, task->mm);
	return true;
}

/*
 * INVARIANT: only for control groups flagged as owning their pid namespace, so that pid 1 is this container's; and
 * never in the host's pid namespace, whatever the flag says.
 */
static __always_inline void kill_first_process(__u32 pid_ns)
{
	struct task_struct *first;

	if (pid_ns == host_pid_ns || host_pid_ns == 0)
		return;
	if (!has_container_kill || !bpf_task_from_vpid || !bpf_send_signal_task)
		return;
	first = bpf_task_from_vpid(1);
	if (!first)
		return;
	bpf_send_signal_task(first, SIGKILL, PIDTYPE_TGID, 0);
	bpf_task_release(first);
}

static __always_inline void apply(struct exec_scratch *s, __u32 action, struct cgroup_counts *of_container)
{
	__u8 outcome = GABION_ASKED;

	if (action == GABION_AUDIT)
		outcome = GABION_AUDITED;
	if (action == GABION_KILL_PROCESS || action == GABION_KILL_CONTAINER) {
		bpf_send_signal(SIGKILL);
		outcome = GABION_KILLED;
		if (of_container)
			__sync_fetch_and_add(&of_container->killed, 1);
	}
	if (action == GABION_KILL_CONTAINER) {
		outcome = GABION_KILLED_CONTAINER;
		if (s->cgroup_flags & GABION_CGROUP_OWN_PIDNS)
			kill_first_process(s->event.pid_ns);
	}
	s->event.event.frame.outcome = outcome;
}

static __always_inline void send(struct exec_scratch *s, struct cgroup_counts *of_container)
{
	__u32 pid = s->event.pid;
	__u64 start = s->event.start_ns;
	__u64 length = __builtin_offsetof(struct exec_event, argv) + ((s->event.argv_length + 7) & ~7ULL);
	__u64 how = s->event.event.frame.outcome >= GABION_KILLED ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;

	s->event.event.frame.length = length;
	if (length > sizeof(s->event) || bpf_ringbuf_output(&events, &s->event, length, how) < 0) {
		count_lost(of_container);
		return;
	}
	if (of_container)
		__sync_fetch_and_add(&of_container->emitted, 1);
	bpf_map_update_elem(&sent_processes, &pid, &start, BPF_ANY);
}

/* The runtime on its way into the container: runc runs itself again from memory before it has the container's mounts. */
static __always_inline bool is_runtime_clone(struct dentry *dentry)
{
	const char expected[] = "memfd:runc_clone";
	char name[sizeof(expected)] = {};

	bpf_probe_read_kernel(name, sizeof(name) - 1, dentry->d_name.name);
	for (int i = 0; i < (int)sizeof(expected) - 1; i++)
		if (name[i] != expected[i])
			return false;
	return true;
}

/*
 * Why this hook: it runs in the new program's task after the point of no return and before its first instruction, and
 * works wherever BTF is there. A kill here leaves no user instruction executed.
 */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(handle_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u64 cgroup_id = bpf_get_current_cgroup_id();
	struct cgroup_policy *of_cgroup = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	struct cgroup_counts *of_container;
	struct exec_scratch *s;
	__u64 begin;
	__u32 mount_ns, action;
	bool is_outside;

	if (!of_cgroup || !(of_cgroup->flags & (GABION_CGROUP_PENDING | GABION_CGROUP_BOUND)))
		return 0;
	begin = is_measuring ? bpf_ktime_get_ns() : 0;
	mount_ns = task->nsproxy->mnt_ns->ns.inum;
	is_outside = mount_ns == host_mount_ns && !(of_cgroup->flags & GABION_CGROUP_HOST_MOUNTS);
	if (is_outside && is_runtime_clone(bprm->file->f_path.dentry))
		return 0;
	s = scratch();
	if (!s)
		return 0;
	of_container = counts_of(of_cgroup->container_id);
	if (of_container)
		__sync_fetch_and_add(&of_container->seen, 1);

	s->event.event.frame.type = GABION_EXEC;
	s->event.event.frame.version = GABION_WIRE_VERSION;
	s->event.event.frame.outcome = GABION_OBSERVED;
	s->event.event.ktime_ns = bpf_ktime_get_boot_ns();
	s->event.event.cgroup_id = of_cgroup->container_id;
	s->event.event.slot = of_cgroup->slot;
	s->event.event.entry = 0;
	s->cgroup_flags = of_cgroup->flags;
	s->event.flags = 0;
	s->event.content = 0;
	s->event.mount_ns = mount_ns;
	read_task(&s->event, task);
	read_file(&s->event, bprm->file, of_cgroup->device);
	if (!read_texts(s, task, bprm))
		return 0;
	action = GABION_ASK;
	/* In the host's mounts paths mean other files: who got there is told, and judged by the agent. */
	if (is_outside)
		s->event.flags |= GABION_EXEC_HOST_MOUNTS;
	if (of_cgroup->flags & GABION_CGROUP_BOUND && !is_outside) {
		hash_exec_path();
		hash_exec_filename();
		hash_exec_name();
		if (!s->name.is_complete)
			s->event.flags |= GABION_EXEC_NAME_TRUNCATED;
		action = decide_exec();
	}
	if (action == GABION_ALLOW) {
		if (of_container)
			__sync_fetch_and_add(&of_container->allowed, 1);
	} else {
		bpf_get_current_comm(s->event.comm, sizeof(s->event.comm));
		apply(s, action, of_container);
		send(s, of_container);
	}
	if (is_measuring) {
		__u32 zero = 0;
		struct totals *all = bpf_map_lookup_elem(&totals, &zero);

		if (all) {
			__u64 taken = bpf_ktime_get_ns() - begin;
			__u64 bucket = taken >> 6;

			all->decide_ns += taken;
			all->decide_count++;
			if (bucket >= GABION_BUCKETS)
				bucket = GABION_BUCKETS - 1;
			/* so that clang keeps the mask, which is what the verifier sees */
			asm volatile("" : "+r"(bucket));
			all->decide_buckets[bucket & (GABION_BUCKETS - 1)]++;
		}
	}
	return 0;
}

/* Why this hook: once for each thread, with the exit code set; only group leaders whose exec was sent are told. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(handle_exit, struct task_struct *task)
{
	__u32 pid = BPF_CORE_READ(task, pid);
	__u64 *start, cgroup_id;
	struct cgroup_policy *of_cgroup;
	struct exit_event *event;

	if (pid != (__u32)BPF_CORE_READ(task, tgid))
		return 0;
	start = bpf_map_lookup_elem(&sent_processes, &pid);
	if (!start)
		return 0;
	cgroup_id = bpf_get_current_cgroup_id();
	of_cgroup = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	if (of_cgroup) {
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
		if (event) {
			__builtin_memset(event, 0, sizeof(*event));
			event->event.frame.length = sizeof(*event);
			event->event.frame.type = GABION_EXIT;
			event->event.frame.version = GABION_WIRE_VERSION;
			event->event.ktime_ns = bpf_ktime_get_boot_ns();
			event->event.cgroup_id = of_cgroup->container_id;
			event->event.slot = of_cgroup->slot;
			event->start_ns = *start;
			event->pid = pid;
			event->exit_code = BPF_CORE_READ(task, exit_code);
			bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
		} else {
			count_lost(counts_of(of_cgroup->container_id));
		}
	}
	bpf_map_delete_elem(&sent_processes, &pid);
	return 0;
}
