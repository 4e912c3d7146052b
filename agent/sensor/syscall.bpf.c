// SPDX-License-Identifier: Apache-2.0
/*
 * What system calls did: which are used at all, files changed, packet sockets, standard streams turned into connections.
 * One program for all of it: it costs every process of the machine some 20 ns a call, so it is attached only while some
 * policy needs it. x86-64 only: elsewhere registers and numbers differ.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "gabion_wire.h"
#include "gabion_hash.h"
#include "maps.bpf.h"
#include "group_calls.bpf.h"
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

#define TS_COMPAT 2
#define FMODE_WRITE 2
#define FMODE_PATH (1 << 14)
#define FMODE_CREATED (1 << 20)
#define O_WRONLY 1
#define O_RDWR 2
#define O_PATH 010000000
#define X32_CALL 0x40000000 /* the same numbers, where the kernel has that table at all */
#define NO_ARGUMENT 7
#define PROC_MAGIC 0x9fa0
#define COMPAT_SOCKETCALL 102
#define SOCKETCALL_SOCKET 1
#define SOCKETCALL_ACCEPT 5
#define SOCKETCALL_ACCEPT4 18
#define NR_OPEN 2
#define NR_DUP 32
#define NR_DUP2 33
#define NR_SOCKET 41
#define NR_ACCEPT 43
#define NR_FCNTL 72
#define NR_CREAT 85
#define NR_FCHMOD 91
#define NR_CHOWN 92
#define NR_FCHOWN 93
#define NR_LCHOWN 94
#define NR_SETXATTR 188
#define NR_LSETXATTR 189
#define NR_FSETXATTR 190
#define NR_OPENAT 257
#define NR_FCHOWNAT 260
#define NR_LINKAT 265
#define NR_ACCEPT4 288
#define NR_DUP3 292
#define NR_OPEN_BY_HANDLE 304
#define NR_OPENAT2 437
#define NR_PIDFD_GETFD 438
#define NR_SETXATTRAT 463
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030

/* Calls that do more than being used: all others are done with after one look. */
static const __u8 followed_calls[GABION_SYSCALLS] = {
	[NR_OPEN] = 1, [NR_DUP] = 1, [NR_DUP2] = 1, [NR_SOCKET] = 1, [NR_ACCEPT] = 1, [NR_FCNTL] = 1, [76] = 1, [82] = 1, [NR_CREAT] = 1,
	[84] = 1, [86] = 1, [87] = 1, [88] = 1, [90] = 1, [NR_FCHMOD] = 1,
	[NR_CHOWN] = 1, [NR_FCHOWN] = 1, [NR_LCHOWN] = 1, [NR_FCHOWNAT] = 1, [133] = 1, [NR_SETXATTR] = 1, [NR_LSETXATTR] = 1,
	[NR_FSETXATTR] = 1, [NR_OPENAT] = 1, [259] = 1, [263] = 1,
	[264] = 1, [NR_LINKAT] = 1, [266] = 1, [268] = 1, [NR_ACCEPT4] = 1, [NR_DUP3] = 1, [NR_OPEN_BY_HANDLE] = 1, [316] = 1,
	[NR_OPENAT2] = 1, [NR_PIDFD_GETFD] = 1, [452] = 1, [NR_SETXATTRAT] = 1,
};

/* Where a call has its paths: numbers of arguments, from 0. */
struct path_call {
	__u8 operation;
	__u8 folder;
	__u8 path;
	__u8 target_folder;
	__u8 target;
	__u8 mode;
};

static __always_inline struct path_call path_call_of(__u64 number)
{
	switch (number) {
	case NR_OPEN:
	case NR_CREAT: return (struct path_call){ GABION_FILE_WRITE, NO_ARGUMENT, 0, 0, NO_ARGUMENT, NO_ARGUMENT };
	case NR_OPENAT:
	case NR_OPENAT2: return (struct path_call){ GABION_FILE_WRITE, 0, 1, 0, NO_ARGUMENT, NO_ARGUMENT };
	case 76: return (struct path_call){ GABION_FILE_WRITE, NO_ARGUMENT, 0, 0, NO_ARGUMENT, NO_ARGUMENT }; /* truncate */
	case 82: return (struct path_call){ GABION_FILE_RENAME, NO_ARGUMENT, 0, NO_ARGUMENT, 1, NO_ARGUMENT };
	case 264:
	case 316: return (struct path_call){ GABION_FILE_RENAME, 0, 1, 2, 3, NO_ARGUMENT }; /* renameat, renameat2 */
	case 84: /* rmdir */
	case 87: return (struct path_call){ GABION_FILE_DELETE, NO_ARGUMENT, 0, 0, NO_ARGUMENT, NO_ARGUMENT };
	case 263: return (struct path_call){ GABION_FILE_DELETE, 0, 1, 0, NO_ARGUMENT, NO_ARGUMENT };
	case 86: return (struct path_call){ GABION_FILE_LINK, NO_ARGUMENT, 0, NO_ARGUMENT, 1, NO_ARGUMENT };
	case NR_LINKAT: return (struct path_call){ GABION_FILE_LINK, 0, 1, 2, 3, NO_ARGUMENT };
	case 88: return (struct path_call){ GABION_FILE_CREATE, NO_ARGUMENT, 1, 0, NO_ARGUMENT, NO_ARGUMENT }; /* symlink */
	case 266: return (struct path_call){ GABION_FILE_CREATE, 1, 2, 0, NO_ARGUMENT, NO_ARGUMENT };
	case 133: return (struct path_call){ GABION_FILE_CREATE, NO_ARGUMENT, 0, 0, NO_ARGUMENT, NO_ARGUMENT }; /* mknod */
	case 259: return (struct path_call){ GABION_FILE_CREATE, 0, 1, 0, NO_ARGUMENT, NO_ARGUMENT };
	case 90: return (struct path_call){ GABION_FILE_MODE, NO_ARGUMENT, 0, 0, NO_ARGUMENT, 1 };
	case 268:
	case 452: return (struct path_call){ GABION_FILE_MODE, 0, 1, 0, NO_ARGUMENT, 2 }; /* fchmodat, fchmodat2 */
	case NR_FCHOWNAT: return (struct path_call){ GABION_FILE_MODE, 0, 1, 0, NO_ARGUMENT, NO_ARGUMENT };
	case NR_CHOWN:
	case NR_LCHOWN:
	case NR_SETXATTR:
	case NR_LSETXATTR: return (struct path_call){ GABION_FILE_MODE, NO_ARGUMENT, 0, 0, NO_ARGUMENT, NO_ARGUMENT };
	case NR_SETXATTRAT: return (struct path_call){ GABION_FILE_MODE, 0, 1, 0, NO_ARGUMENT, NO_ARGUMENT };
	default: return (struct path_call){};
	}
}

/* The number that a call of the 32-bit table has in the other one, for those that are followed; 0 for all others. */
static __always_inline __u32 native_number(__u32 number)
{
	switch (number) {
	case 5: return NR_OPEN;
	case 8: return NR_CREAT;
	case 9: return 86; /* link */
	case 10: return 87; /* unlink */
	case 14: return 133; /* mknod */
	case 15: return 90; /* chmod */
	case 16:
	case 198: return NR_LCHOWN; /* lchown32 too */
	case 38: return 82; /* rename */
	case 40: return 84; /* rmdir */
	case 41: return NR_DUP;
	case 55:
	case 221: return NR_FCNTL; /* fcntl64 too */
	case 63: return NR_DUP2;
	case 83: return 88; /* symlink */
	case 92:
	case 193: return 76; /* truncate64 too */
	case 94: return NR_FCHMOD;
	case 95:
	case 207: return NR_FCHOWN; /* fchown32 too */
	case 182:
	case 212: return NR_CHOWN; /* chown32 too */
	case 226: return NR_SETXATTR;
	case 227: return NR_LSETXATTR;
	case 228: return NR_FSETXATTR;
	case 295: return NR_OPENAT;
	case 297: return 259; /* mknodat */
	case 301: return 263; /* unlinkat */
	case 302: return 264; /* renameat */
	case 298: return NR_FCHOWNAT;
	case 303: return NR_LINKAT;
	case 304: return 266; /* symlinkat */
	case 306: return 268; /* fchmodat */
	case 330: return NR_DUP3;
	case 342: return NR_OPEN_BY_HANDLE;
	case 353: return 316; /* renameat2 */
	case 359: return NR_SOCKET;
	case 364: return NR_ACCEPT4;
	case NR_PIDFD_GETFD: return NR_PIDFD_GETFD;
	case NR_OPENAT2: return NR_OPENAT2;
	case 452: return 452; /* fchmodat2 */
	case NR_SETXATTRAT: return NR_SETXATTRAT;
	default: return 0;
	}
}

static __always_inline __u64 argument(struct pt_regs *regs, bool is_compat, __u8 at)
{
	if (is_compat) {
		switch (at) {
		case 0: return (__u32)regs->bx;
		case 1: return (__u32)regs->cx;
		case 2: return (__u32)regs->dx;
		case 3: return (__u32)regs->si;
		default: return (__u32)regs->di;
		}
	}
	switch (at) {
	case 0: return regs->di;
	case 1: return regs->si;
	case 2: return regs->dx;
	case 3: return regs->r10;
	default: return regs->r8;
	}
}

/*
 * What is open under a descriptor: its path is real, whatever way led there. False for what has no place: memory, or a
 * file without a name. Global, as `read_base` is, so that the verifier looks at the walk once and not at each call.
 */
__attribute__((noinline)) int read_open_path(__u32 descriptor)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file_scratch *s = file_scratch();
	struct file *file = file_of(task, descriptor);
	struct path_buffer *buffer;
	struct walked_path walked;
	struct inode *inode;
	__u32 zero = 0;

	buffer = bpf_map_lookup_elem(&path_buffers, &zero);
	if (!s || !buffer || !file)
		return 0;
	inode = file->f_inode;
	s->event.inode = inode->i_ino;
	s->event.device = inode->i_sb->s_dev;
	s->event.mode = inode->i_mode;
	if (inode->i_sb->s_magic == PROC_MAGIC)
		s->event.flags |= GABION_FILE_PROC;
	if ((inode->i_mode & S_IFMT) == S_IFREG && inode->i_mode & EXECUTE_BITS)
		s->event.flags |= GABION_FILE_EXECUTABLE;
	walked = walk_path(buffer, file->f_path.dentry, file->f_path.mnt);
	read_walked(s->event.path, GABION_PATH_MAX, &s->event.path_length, buffer, walked);
	if (walked.is_truncated)
		s->event.flags |= GABION_FILE_CUT;
	if (is_library(s->event.path, s->event.path_length))
		s->event.flags |= GABION_FILE_EXECUTABLE;
	return s->event.path[0] == '/';
}

static __always_inline void handle_open_file(struct cgroup_policy *policy, struct contained_process *process,
					     struct file *file, __u32 descriptor, __u32 operation, __u32 flags)
{
	struct file_scratch *s;
	struct cgroup_counts *counts;
	__u16 kind = file->f_inode->i_mode & S_IFMT;
	__u32 action;

	/* Devices and pipes are no files of anybody, but a disk holds them all. */
	if (kind != S_IFREG && kind != S_IFBLK && !(kind == S_IFDIR && operation == GABION_FILE_MODE))
		return;
	s = begin_file(policy, process, operation);
	if (!s || !read_open_path(descriptor))
		return;
	s->event.flags |= flags;
	counts = counts_of(policy->container_id, SECTION_FILES);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	hash_file_path();
	action = decide_file();
	action = counted(policy, s->event.event.entry, action);
	if (action == GABION_ALLOW) {
		if (counts)
			__sync_fetch_and_add(&counts->allowed, 1);
		count_entry(policy, s->event.event.entry);
		return;
	}
	conclude_file(s, action, policy->flags, counts);
}

/* What an open asked for; of openat2 as it lies in the caller's memory, where another thread may change it. */
static __always_inline __u64 open_flags(struct pt_regs *regs, bool is_compat, __u32 native)
{
	__u64 flags = 0;

	switch (native) {
	case NR_CREAT: return O_WRONLY | O_CREAT | O_TRUNC;
	case NR_OPEN: return argument(regs, is_compat, 1);
	case NR_OPENAT2: bpf_probe_read_user(&flags, sizeof(flags), (const void *)argument(regs, is_compat, 2)); return flags;
	default: return argument(regs, is_compat, 2);
	}
}

/* True where a file that was opened is for writing, was made, or was emptied: for that it need not be for writing. */
static __always_inline bool is_changed(struct file *file, __u64 flags)
{
	__u32 access = flags & O_ACCMODE;

	if (file->f_mode & FMODE_PATH)
		return false;
	return file->f_mode & (FMODE_WRITE | FMODE_CREATED) || (flags & O_TRUNC && access != O_WRONLY && access != O_RDWR);
}

/* What registers say is certain, and the file is looked at where they leave it open: another thread may have put another. */
static __always_inline bool opened_to_change(struct task_struct *task, struct pt_regs *regs, bool is_compat, __u32 native,
					     long descriptor)
{
	__u64 flags = open_flags(regs, is_compat, native);
	struct file *file;

	if (native != NR_OPENAT2) {
		if (!(flags & OPEN_CHANGES) || flags & O_PATH)
			return false;
		if (flags & (O_ACCMODE | O_TRUNC))
			return true;
	}
	file = file_of(task, descriptor);
	return file && is_changed(file, flags);
}

/* False where another thread has put something else under the descriptor before it could be looked at. */
static __always_inline bool handle_open(struct cgroup_policy *policy, struct task_struct *task,
					struct contained_process *process, long descriptor, __u64 flags)
{
	struct file *file = file_of(task, descriptor);

	if (!file || !is_changed(file, flags))
		return false;
	handle_open_file(policy, process, file, descriptor,
			 file->f_mode & FMODE_CREATED ? GABION_FILE_CREATE : GABION_FILE_WRITE, 0);
	return true;
}

/* The paths of a call are where its arguments say. */
static __always_inline void handle_path(struct cgroup_policy *policy, struct contained_process *process,
					struct pt_regs *regs, bool is_compat, __u32 native, struct path_call call)
{
	struct path_act act = { .operation = call.operation, .folder = AT_FDCWD, .target_folder = AT_FDCWD };
	bool is_followed = call.operation == GABION_FILE_WRITE || call.operation == GABION_FILE_MODE;

	/* A link at the end: where it is not the call's own to follow it or not, its fifth argument says so. */
	if (native == NR_LCHOWN || native == NR_LSETXATTR)
		is_followed = false;
	if (native == NR_FCHOWNAT)
		is_followed = !(argument(regs, is_compat, 4) & AT_SYMLINK_NOFOLLOW);
	if (native == NR_LINKAT)
		is_followed = argument(regs, is_compat, 4) & AT_SYMLINK_FOLLOW;
	act.flags = is_followed ? GABION_FILE_FOLLOWED : 0;
	if (native == NR_CHOWN || native == NR_LCHOWN || native == NR_FCHOWNAT)
		act.flags |= GABION_FILE_OWNER;
	act.path = (const void *)argument(regs, is_compat, call.path);
	if (call.folder != NO_ARGUMENT)
		act.folder = argument(regs, is_compat, call.folder);
	if (call.target != NO_ARGUMENT)
		act.target = (const void *)argument(regs, is_compat, call.target);
	if (call.target_folder != NO_ARGUMENT)
		act.target_folder = argument(regs, is_compat, call.target_folder);
	if (call.mode != NO_ARGUMENT)
		act.mode = argument(regs, is_compat, call.mode);
	tell_path(policy, process, &act);
}

/* A program that runs got a connection as its standard input or output. Whether it is a shell the agent knows. */
static __always_inline void handle_redirect(struct cgroup_policy *policy, struct task_struct *task, long descriptor)
{
	struct file *file = file_of(task, descriptor);
	struct socket_scratch *s = socket_scratch();
	struct cgroup_counts *counts;

	if (!file || !s || default_action(policy, GABION_DEFAULT_STREAM) == GABION_ALLOW || !internet_socket(file))
		return;
	counts = counts_of(policy->container_id, SECTION_PROCESS);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	begin_event(&s->redirect.event, GABION_REDIRECT, sizeof(s->redirect), policy);
	s->redirect.event.frame.outcome = GABION_ASKED;
	s->redirect.descriptor = descriptor;
	read_actor(&s->redirect.actor);
	emit(&events, &s->redirect.event, sizeof(s->redirect), counts);
}

/*
 * The first use of a call since the group was bound. Its bit is set first: what happens at once happens once. Global, so
 * that the verifier looks at it once and not for each way that leads here: it is rare, so what it looks up again is nothing.
 */
__attribute__((noinline)) int handle_first_use(__u32 bit)
{
	__u64 cgroup_id = bpf_get_current_cgroup_id();
	struct cgroup_policy *policy = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	struct group_calls *calls = bpf_cgrp_storage_get(&group_calls, bpf_get_current_task_btf()->cgroups->dfl_cgrp, 0, 0);
	struct socket_scratch *s = socket_scratch();
	__u32 slot, word = bit / 64, action = GABION_ASK;
	__u64 mask = 1ULL << (bit & 63);
	struct slot_defaults *defaults;
	struct cgroup_counts *counts;

	if (!policy || !calls || !s || word >= 2 * GABION_SYSCALLS / 64)
		return 0;
	slot = policy->slot;
	defaults = bpf_map_lookup_elem(&slots, &slot);
	counts = counts_of(policy->container_id, SECTION_SYSCALLS);
	__sync_fetch_and_or(&calls->seen[word], mask);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	if (defaults) {
		action = defaults->actions[GABION_DEFAULT_SYSCALL];
		if (defaults->syscalls_denied[word] & mask)
			action = defaults->actions[GABION_DEFAULT_SYSCALL_DENIED];
		else if (defaults->syscalls_allowed[word] & mask)
			action = GABION_ASK; /* known: told all the same, once while the policy is in force */
	}
	if (action == GABION_ALLOW) {
		if (counts)
			__sync_fetch_and_add(&counts->allowed, 1);
		return 0;
	}
	begin_event(&s->syscall.event, GABION_SYSCALL, sizeof(s->syscall), policy);
	s->syscall.number = bit & (GABION_SYSCALLS - 1);
	s->syscall.flags = bit >= GABION_SYSCALLS ? GABION_SYSCALL_COMPAT : 0;
	read_actor(&s->syscall.actor);
	s->syscall.event.frame.outcome = outcome_of(action);
	if (action == GABION_BLOCK) {
		bpf_send_signal(SIGKILL);
		s->syscall.event.frame.outcome = GABION_ENDED_CONTAINER;
		if (counts)
			__sync_fetch_and_add(&counts->killed, 1);
		kill_first_process(policy->flags, s->syscall.actor.pid_ns);
	}
	/* What could not be told is told at the next use. */
	if (!emit(&events, &s->syscall.event, sizeof(s->syscall), counts))
		__sync_fetch_and_and(&calls->seen[word], ~mask);
	return 1;
}

/*
 * The one call of the 32-bit table that hides its arguments in memory, where another thread may change them meanwhile: what
 * was opened is looked at, not what was asked for.
 */
static __always_inline void handle_socketcall(struct cgroup_policy *policy, struct task_struct *task, struct pt_regs *regs,
					      long descriptor)
{
	__u32 call = regs->bx;
	struct file *file;
	struct sock *sk;

	if (call != SOCKETCALL_SOCKET && call != SOCKETCALL_ACCEPT && call != SOCKETCALL_ACCEPT4)
		return;
	if (descriptor <= 2)
		handle_redirect(policy, task, descriptor);
	if (call != SOCKETCALL_SOCKET || !(policy->flags & GABION_CGROUP_NETWORK))
		return;
	file = file_of(task, descriptor);
	sk = file ? socket_behind(file) : 0;
	if (sk && is_packet_socket(sk->__sk_common.skc_family, sk->sk_type))
		handle_packet_socket(policy, sk->__sk_common.skc_family, sk->sk_type, sk->sk_protocol);
}

union attribute {
	char text[24];
	__u64 words[3];
};

/* Who may do what with a file, by other means than its mode: access lists, and rights that a program brings with it. */
static __attribute__((noinline)) int grants_rights(const void *name)
{
	const union attribute lists = { "system.posix_acl" }, rights = { "security.capability" };
	union attribute given = {};

	if (bpf_probe_read_user_str(given.text, sizeof(given), name) < 0)
		return 0;
	/* Word by word: of each byte the verifier would follow both ways. The lists have two kinds. */
	return ((given.words[0] ^ lists.words[0]) | (given.words[1] ^ lists.words[1])) == 0 ||
	       ((given.words[0] ^ rights.words[0]) | (given.words[1] ^ rights.words[1]) |
		(given.words[2] ^ rights.words[2])) == 0;
}

/* Most of the calls that are followed do nothing that counts: told by a few loads, before anything is looked up. */
static __always_inline bool does_more(struct task_struct *task, struct pt_regs *regs, bool is_compat, __u32 native,
				      long result)
{
	switch (native) {
	case NR_OPEN:
	case NR_OPENAT:
	case NR_OPENAT2:
	case NR_OPEN_BY_HANDLE:
	case NR_CREAT:
		return opened_to_change(task, regs, is_compat, native, result);
	case NR_SOCKET:
		return result <= 2 || is_packet_socket(argument(regs, is_compat, 0), argument(regs, is_compat, 1));
	case NR_ACCEPT:
	case NR_ACCEPT4:
	case NR_DUP:
	case NR_DUP2:
	case NR_DUP3:
	case NR_PIDFD_GETFD:
		return result <= 2;
	case NR_SETXATTR:
	case NR_LSETXATTR:
	case NR_FSETXATTR:
		return grants_rights((const void *)argument(regs, is_compat, 1));
	case NR_SETXATTRAT:
		return grants_rights((const void *)argument(regs, is_compat, 3));
	case NR_FCNTL:
		return result <= 2 &&
		       (argument(regs, is_compat, 1) == F_DUPFD || argument(regs, is_compat, 1) == F_DUPFD_CLOEXEC);
	default:
		return true;
	}
}

/* The place of a group on this processor, or null. No two runs of one program mix on a processor: the kernel sees to it. */
static __always_inline struct quiet_calls *quiet_of(const struct cgroup *group)
{
	__u32 place = bpf_get_smp_processor_id() * GABION_QUIET_GROUPS + ((__u64)group >> 13 & (GABION_QUIET_GROUPS - 1));

	return bpf_map_lookup_elem(&quiet_calls, &place);
}

static __always_inline bool has_call(const __u64 *set, __u32 number)
{
	return set[number / 64 & (GABION_SYSCALLS / 64 - 1)] & 1ULL << (number & 63);
}

/* A call that is no first use need not be looked at again; one that is followed, only where it does more. */
static __always_inline void note_seen(struct quiet_calls *quiet, const struct cgroup *group, __u32 epoch, __u32 number)
{
	__u32 word = number / 64 & (GABION_SYSCALLS / 64 - 1);

	if (quiet->group != (__u64)group || quiet->of_epoch != epoch) {
		quiet->group = (__u64)group;
		__builtin_memset(quiet->quiet, 0, sizeof(quiet->quiet));
		__builtin_memset(quiet->seen, 0, sizeof(quiet->seen));
		quiet->of_epoch = epoch;
	}
	quiet->seen[word] |= 1ULL << (number & 63);
	if (!followed_calls[number & (GABION_SYSCALLS - 1)])
		quiet->quiet[word] |= 1ULL << (number & 63);
}

/* What is left of a call that is not just another one of its kind. */
static __attribute__((noinline)) int follow(struct pt_regs *regs, long result, struct quiet_calls *quiet)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup *group = task->cgroups->dfl_cgrp;
	__u32 number = regs->orig_ax & ~X32_CALL, native, bit, epoch = 0;
	bool is_compat = task->thread_info.status & TS_COMPAT, is_first, is_followed;
	struct contained_process *process;
	struct cgroup_policy *policy;
	struct group_calls *calls;
	struct path_call call;
	__u64 cgroup_id;

	if (number >= GABION_SYSCALLS)
		return 0;
	/* Before what it stands for is read: what changes meanwhile is looked at again by the next call. */
	if (quiet && !is_compat) {
		epoch = *(volatile __u32 *)&quiet->epoch;
		if (quiet->group == (__u64)group && quiet->of_epoch == epoch && has_call(quiet->seen, number) &&
		    (result < 0 || !does_more(task, regs, false, number, result)))
			return 0;
	}
	calls = bpf_cgrp_storage_get(&group_calls, group, 0, 0);
	if (!calls)
		return 0;
	native = is_compat ? native_number(number) : number;
	bit = (is_compat ? GABION_SYSCALLS : 0) + number;
	is_first = calls->flags & GABION_CGROUP_SYSCALLS && bit < 2 * GABION_SYSCALLS &&
		   !(calls->seen[bit / 64] & 1ULL << (bit & 63));
	is_followed = result >= 0 && (followed_calls[native & (GABION_SYSCALLS - 1)] ||
				      (is_compat && number == COMPAT_SOCKETCALL));
	if (quiet && !is_first && !is_compat)
		note_seen(quiet, group, epoch, number);
	if (is_followed)
		is_followed = does_more(task, regs, is_compat, native, result);
	if (!is_first && !is_followed)
		return 0;
	cgroup_id = bpf_get_current_cgroup_id();
	policy = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	if (!policy || !(policy->flags & GABION_CGROUP_BOUND))
		return 0;
	if (is_first && contained_of(task->tgid))
		handle_first_use(bit);
	if (!is_followed)
		return 0;
	if (is_compat && number == COMPAT_SOCKETCALL) {
		handle_socketcall(policy, task, regs, result);
		return 0;
	}
	switch (native) {
	case NR_OPEN:
	case NR_OPENAT:
	case NR_OPENAT2:
	case NR_OPEN_BY_HANDLE:
	case NR_CREAT:
		if (!(policy->flags & GABION_CGROUP_FILES) || !(process = contained_of(task->tgid)) ||
		    handle_open(policy, task, process, result, open_flags(regs, is_compat, native)))
			return 0;
		break; /* told by what was typed */
	case NR_SOCKET:
		if (result <= 2)
			handle_redirect(policy, task, result);
		if (policy->flags & GABION_CGROUP_NETWORK &&
		    is_packet_socket(argument(regs, is_compat, 0), argument(regs, is_compat, 1)))
			handle_packet_socket(policy, argument(regs, is_compat, 0), argument(regs, is_compat, 1),
					     argument(regs, is_compat, 2));
		return 0;
	case NR_ACCEPT:
	case NR_ACCEPT4:
	case NR_DUP:
	case NR_DUP2:
	case NR_DUP3:
	case NR_FCNTL:
	case NR_PIDFD_GETFD:
		handle_redirect(policy, task, result);
		return 0;
	case NR_FCHMOD:
	case NR_FCHOWN:
	case NR_FSETXATTR:
		if (policy->flags & GABION_CGROUP_FILES && (process = contained_of(task->tgid))) {
			__u32 descriptor = argument(regs, is_compat, 0);
			struct file *file = file_of(task, descriptor);

			if (file)
				handle_open_file(policy, process, file, descriptor, GABION_FILE_MODE,
						 native == NR_FCHOWN ? GABION_FILE_OWNER : 0);
		}
		return 0;
	}
	if (!(policy->flags & GABION_CGROUP_FILES))
		return 0;
	call = path_call_of(native);
	if (call.operation && (process = contained_of(task->tgid)))
		handle_path(policy, process, regs, is_compat, native, call);
	return 0;
}

/*
 * Why this hook: number, arguments and result are all there, and one program costs less than one at each end. Kept apart
 * from what follows, so that what nearly all calls come to is a few lines of code and needs no room on the stack.
 */
SEC("tp_btf/sys_exit")
int BPF_PROG(handle_sys_exit, struct pt_regs *regs, long result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup *group = task->cgroups->dfl_cgrp;
	__u32 number = regs->orig_ax & ~X32_CALL;
	struct quiet_calls *quiet = quiet_of(group);

	if (quiet && quiet->group == (__u64)group && quiet->of_epoch == *(volatile __u32 *)&quiet->epoch &&
	    number < GABION_SYSCALLS && has_call(quiet->quiet, number) && !(task->thread_info.status & TS_COMPAT))
		return 0;
	/* One load for all processes that nobody watches: the helper takes three times as long to say the same. */
	if (bpf_core_field_exists(group->bpf_cgrp_storage) && !group->bpf_cgrp_storage)
		return 0;
	return follow(regs, result, quiet);
}
