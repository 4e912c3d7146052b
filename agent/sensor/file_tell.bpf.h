/* SPDX-License-Identifier: Apache-2.0 */
/* Telling of a changed file: who did it, and where it lies as far as the path that was typed says so. */
#ifndef GABION_FILE_TELL_BPF_H
#define GABION_FILE_TELL_BPF_H

#define EXECUTE_BITS 0111
#define AT_FDCWD (-100)
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_SYMLINK_FOLLOW 0x400
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000
/* An open with none of these changes nothing. */
#define OPEN_CHANGES (O_ACCMODE | O_CREAT | O_TRUNC)

/* The act has happened. Only block does something here: it ends the process before it can use what it got. */
static __always_inline void conclude_file(struct file_scratch *s, __u32 action, __u32 cgroup_flags,
					  struct cgroup_counts *counts)
{
	if (!s->has_actor)
		read_actor(&s->event.actor);
	s->event.event.frame.outcome = outcome_of(action);
	if (action == GABION_BLOCK) {
		bpf_send_signal(SIGKILL);
		s->event.event.frame.outcome = GABION_ENDED_CONTAINER;
		if (counts)
			__sync_fetch_and_add(&counts->killed, 1);
		kill_first_process(cgroup_flags, s->event.actor.pid_ns);
	}
	emit(&bulk, &s->event.event, sizeof(s->event), counts);
}

static __always_inline struct file_scratch *begin_file(struct cgroup_policy *policy, struct contained_process *process,
						       __u32 operation)
{
	struct file_scratch *s = file_scratch();

	if (!s)
		return 0;
	begin_event(&s->event.event, GABION_FILE, sizeof(s->event), policy);
	s->event.operation = operation;
	s->event.flags = 0;
	s->event.path_length = s->event.target_length = 0;
	s->event.base_length = s->event.target_base_length = 0;
	s->event.inode = 0;
	s->event.device = 0;
	s->event.mode = 0;
	s->exe_hash = process->exe_hash;
	/* Who it was is read where it is told, and here only where its program is not known yet. */
	s->has_actor = 0;
	if (!s->exe_hash) {
		read_actor(&s->event.actor);
		s->has_actor = 1;
		hash_file_exe();
		if (s->exe.is_complete && !s->event.actor.is_cut)
			s->exe_hash = process->exe_hash = s->exe.full;
	}
	return s;
}

#define MOUNTS_MAX 8
/* Instead of a folder's descriptor: the process's own root. */
#define FROM_ROOT (-4096)

/* True where the current task's root is not the top of its mounts: then what it types begins elsewhere. */
__attribute__((noinline)) int is_rooted(void)
{
	struct fs_struct *fs = bpf_get_current_task_btf()->fs;
	struct mount *mount = mount_of(fs->root.mnt);
	struct dentry *dentry = fs->root.dentry;

	for (int i = 0; i < MOUNTS_MAX; i++) {
		struct mount *above = mount->mnt_parent;

		if (dentry != mount->mnt.mnt_root)
			return 1;
		if (above == mount)
			return 0;
		dentry = mount->mnt_mountpoint;
		mount = above;
	}
	return 1;
}

/* The folder that a path as typed begins at: of the first path, or of the second. */
__attribute__((noinline)) int read_base(__s32 folder, __u32 is_second)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file_scratch *s = file_scratch();
	__u32 zero = 0;
	struct path_buffer *buffer = bpf_map_lookup_elem(&path_buffers, &zero);
	struct walked_path walked;
	const struct path *at;
	__u8 *target;
	__u16 *length;

	if (!s || !buffer)
		return 0;
	target = is_second ? s->event.target_base : s->event.base;
	length = is_second ? &s->event.target_base_length : &s->event.base_length;
	/* One walk, wherever it begins: the verifier looks at each. */
	if (folder == AT_FDCWD || folder == FROM_ROOT) {
		at = folder == FROM_ROOT ? &task->fs->root : &task->fs->pwd;
	} else {
		struct file *file = file_of(task, folder);

		if (!file)
			return 0;
		at = &file->f_path;
	}
	at = bpf_rdonly_cast(at, bpf_core_type_id_kernel(struct path));
	walked = walk_path(buffer, at->dentry, at->mnt);
	read_walked(target, GABION_CWD_MAX, length, buffer, walked);
	if (walked.is_truncated || walked.length >= GABION_CWD_MAX) {
		*length = GABION_CWD_MAX;
		s->event.flags |= GABION_FILE_CUT;
	}
	return 1;
}

/* Acts on paths as typed that only the agent can tell the file of. */
#define ASKED_FLAGS                                                                                                    \
	(GABION_FILE_CUT | GABION_FILE_EXECUTABLE | GABION_FILE_RING | GABION_FILE_FOLLOWED | GABION_FILE_ROOTED)

/* An act on paths as typed. */
struct path_act {
	__u32 operation;
	__u32 flags;
	__s32 folder; /* descriptor of the folder that the path begins at, or AT_FDCWD */
	__s32 target_folder;
	const void *path;
	const void *target; /* of a rename or a link, otherwise 0 */
	__u32 mode;
	bool is_copied; /* the kernel has copied the texts already */
};

static __always_inline void read_typed(struct file_scratch *s, __u8 *to, __u16 *length, const void *from, bool is_copied)
{
	long got = is_copied ? bpf_probe_read_kernel_str(to, GABION_PATH_MAX, from) :
			       bpf_probe_read_user_str(to, GABION_PATH_MAX, from);

	*length = got > 0 ? got - 1 : 0;
	if (got <= 0 || got >= GABION_PATH_MAX)
		s->event.flags |= GABION_FILE_CUT;
}

/* Paths as typed: resolving them is the agent's. Known-good ones are recognised where the text is plain. */
static __always_inline void tell_path(struct cgroup_policy *policy, struct contained_process *process,
				      const struct path_act *act)
{
	struct file_scratch *s = begin_file(policy, process, act->operation);
	struct cgroup_counts *counts;
	__u32 action;

	if (!s)
		return;
	s->event.flags |= GABION_FILE_TYPED | act->flags;
	s->event.mode = act->mode;
	if (act->mode & EXECUTE_BITS && act->operation == GABION_FILE_MODE)
		s->event.flags |= GABION_FILE_EXECUTABLE;
	if (is_rooted())
		s->event.flags |= GABION_FILE_ROOTED;
	read_typed(s, s->event.path, &s->event.path_length, act->path, act->is_copied);
	if (s->event.path[0] != '/' || s->event.flags & GABION_FILE_ROOTED)
		read_base(s->event.path[0] == '/' ? FROM_ROOT : act->folder, 0);
	if (act->target) {
		read_typed(s, s->event.target, &s->event.target_length, act->target, act->is_copied);
		if (s->event.target[0] != '/' || s->event.flags & GABION_FILE_ROOTED)
			read_base(s->event.target[0] == '/' ? FROM_ROOT : act->target_folder, 1);
	}
	if (is_library(s->event.path, s->event.path_length))
		s->event.flags |= GABION_FILE_EXECUTABLE;
	counts = counts_of(policy->container_id, SECTION_FILES);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	action = GABION_ASK;
	/* Two paths, a link at the end, what is or may be executable: more than one look-up can answer. */
	if (!act->target && !(s->event.flags & ASKED_FLAGS) && s->event.base_length < GABION_CWD_MAX) {
		hash_file_typed();
		action = decide_typed();
	}
	action = counted(policy, s->event.event.entry, action);
	if (action == GABION_ALLOW) {
		if (counts)
			__sync_fetch_and_add(&counts->allowed, 1);
		count_entry(policy, s->event.event.entry);
		return;
	}
	conclude_file(s, GABION_ASK, policy->flags, counts);
}

#endif
