/* SPDX-License-Identifier: Apache-2.0 */
/* Who does something: the current task, with the real path of its program. */
#ifndef GABION_ACTOR_BPF_H
#define GABION_ACTOR_BPF_H

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFREG 0100000
#define S_IFDIR 0040000
#define S_IFBLK 0060000
#define S_IFIFO 0010000

/* Copies what was walked, with the zero behind it; a path that fills its field has none and is not whole. */
static __always_inline void read_walked(__u8 *target, __u32 size, __u16 *length, struct path_buffer *buffer,
					struct walked_path walked)
{
	__u32 offset = walked.offset & (GABION_PATH_MAX - 1);
	__u32 copied = walked.length < size ? walked.length : size - 1;

	/* so that clang keeps the mask, which is what the verifier sees */
	asm volatile("" : "+r"(copied));
	copied &= size - 1;
	bpf_probe_read_kernel(target, copied + 1, &buffer->bytes[offset]);
	*length = copied;
}

static __always_inline struct upid innermost_pid(struct task_struct *task)
{
	struct pid *pid = task->thread_pid;
	struct upid upid = {};

	bpf_probe_read_kernel(&upid, sizeof(upid),
			      (char *)pid + bpf_core_field_offset(struct pid, numbers) +
				      pid->level * bpf_core_type_size(struct upid));
	return upid;
}

#ifdef READS_ACTOR
/* The current task. Global, so that the verifier looks at it once and not at each call. */
__attribute__((noinline)) int read_actor(struct gabion_actor *actor)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 uid_gid = bpf_get_current_uid_gid();
	struct task_struct *parent = task->real_parent->group_leader;
	struct mm_struct *mm = task->mm;
	struct upid upid = innermost_pid(task);
	__u32 zero = 0;
	struct path_buffer *buffer = bpf_map_lookup_elem(&path_buffers, &zero);
	struct walked_path walked;
	struct file *exe;

	if (!actor)
		return 0;
	actor->pid = task->tgid;
	actor->start_ns = task->group_leader->start_boottime;
	actor->parent_pid = parent->tgid;
	actor->parent_start_ns = parent->start_boottime;
	actor->uid = uid_gid;
	actor->gid = uid_gid >> 32;
	actor->pid_ns = BPF_CORE_READ(upid.ns, ns.inum);
	actor->is_first = upid.nr == 1;
	actor->exe_length = 0;
	actor->is_cut = 0;
	actor->exe[0] = 0;
	bpf_get_current_comm(actor->comm, sizeof(actor->comm));
	if (!buffer || !mm)
		return 0;
	exe = mm->exe_file;
	if (!exe)
		return 0;
	walked = walk_path(buffer, exe->f_path.dentry, exe->f_path.mnt);

	read_walked(actor->exe, GABION_EXE_MAX, &actor->exe_length, buffer, walked);
	actor->is_cut = walked.is_truncated || walked.length >= GABION_EXE_MAX;
	return 1;
}
#endif

/* The socket behind a file, or null. */
static __always_inline struct sock *socket_behind(struct file *file)
{
	struct socket *socket;

	if ((file->f_inode->i_mode & S_IFMT) != S_IFSOCK)
		return 0;
	socket = bpf_rdonly_cast(file->private_data, bpf_core_type_id_kernel(struct socket));
	return socket->sk;
}

/* The Internet socket behind a file, or null. */
static __always_inline struct sock *internet_socket(struct file *file)
{
	struct sock *sk = socket_behind(file);

	if (!sk)
		return 0;
	return sk->__sk_common.skc_family == 2 || sk->__sk_common.skc_family == 10 ? sk : 0;
}

static __always_inline struct file *file_of(struct task_struct *task, __u32 descriptor)
{
	struct fdtable *table = task->files->fdt;
	struct file *file = 0;

	if (descriptor >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), &table->fd[descriptor]);
	return file ? bpf_rdonly_cast(file, bpf_core_type_id_kernel(struct file)) : 0;
}

#endif
