/* SPDX-License-Identifier: Apache-2.0 */
/* What an exec is: file, task and texts, read from the kernel's own structures into the event. */
#ifndef GABION_EXEC_READ_BPF_H
#define GABION_EXEC_READ_BPF_H

#define S_ISUID 04000
#define OVERLAY_MAGIC 0x794c7630
#define CTIME_NSEC_MASK 0x3fffffff /* I_CTIME_QUERIED lies above */

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
	if (inode->i_mode & S_ISUID && inode->i_uid.val != event->uid)
		event->flags |= GABION_EXEC_SETUID;
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

#define AF_UNIX 1

/* True for a pipe, or a Unix socket, of which the inode of the other end is read. */
static __always_inline bool leads_to_process(struct file *file, __u32 *peer_inode)
{
	struct sock *sk;
	struct unix_sock *own;

	if ((file->f_inode->i_mode & S_IFMT) == S_IFIFO)
		return true;
	sk = socket_behind(file);
	if (!sk || sk->__sk_common.skc_family != AF_UNIX || !bpf_core_type_exists(struct unix_sock))
		return false;
	own = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct unix_sock));
	*peer_inode = own->peer->sk_socket->file->f_inode->i_ino;
	return true;
}

/*
 * A shell whose input is a connection, or comes from whoever holds one through a pipe or Unix socket, is somebody's remote
 * shell. Commands come from the input, so the output is looked at only where the input leads to another process.
 */
static __always_inline void read_streams(struct exec_event *event, struct task_struct *task)
{
	struct file *input = file_of(task, 0), *output;
	__u32 ignored;

	if (!input)
		return;
	if (internet_socket(input))
		event->flags |= GABION_EXEC_SOCKET_STREAM;
	if (!leads_to_process(input, &event->input_peer))
		return;
	output = file_of(task, 1);
	if (output && leads_to_process(output, &ignored))
		event->flags |= GABION_EXEC_PASSED_STREAMS;
}

/* What is only told: not read for what is known and merely counted. */
static __always_inline void read_task(struct exec_event *event, struct task_struct *task)
{
	struct task_struct *parent = task->real_parent->group_leader;
	struct upid upid = innermost_pid(task);

	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event->start_ns = task->group_leader->start_boottime;
	event->parent_pid = parent->tgid;
	event->parent_start_ns = parent->start_boottime;
	event->pid_ns = BPF_CORE_READ(upid.ns, ns.inum);
	if (upid.nr == 1)
		event->flags |= GABION_EXEC_FIRST_PROCESS;
}

/* argv[0], which names what is run. A name that could not be read is not the kernel's to decide about. */
static __always_inline void read_name(struct exec_event *event, struct mm_struct *mm)
{
	unsigned long start = mm->arg_start;

	/* What the event before this one left behind must not be taken for a name. */
	event->argv[0] = 0;
	if (mm->arg_end != start && bpf_probe_read_user_str(event->argv, GABION_NAME_MAX + 1, (void *)start) < 0)
		event->flags |= GABION_EXEC_NAME_TRUNCATED;
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
	if (bpf_probe_read_user(event->argv, length, (void *)start) < 0) {
		length = 0;
		event->flags |= GABION_EXEC_NAME_TRUNCATED;
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
	read_name(event, task->mm);
	return true;
}

#endif
