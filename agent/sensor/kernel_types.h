/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few kernel types that the programs read, written by hand: CO-RE finds the real offsets at load time, so neither
 * a generated vmlinux.h nor BTF on the build machine is needed.
 */
#ifndef GABION_KERNEL_TYPES_H
#define GABION_KERNEL_TYPES_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0

enum pid_type { PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_MAX };
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LRU_HASH = 9,
       BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr { const unsigned char *name; __u32 len; };
struct super_block { __u32 s_dev; unsigned long s_magic; };
struct timespec64 { __s64 tv_sec; long tv_nsec; };
struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_nlink;
	__s64 i_ctime_sec;
	__u32 i_ctime_nsec;
};
struct inode___6_6 { struct timespec64 __i_ctime; };
struct inode___old { struct timespec64 i_ctime; };
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; };
struct vfsmount { struct dentry *mnt_root; };
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; };
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct file { struct path f_path; struct inode *f_inode; };
struct ovl_entry;
struct ovl_inode { struct inode vfs_inode; struct dentry *__upperdentry; struct ovl_entry *oe; };
struct linux_binprm { struct file *file; const char *filename; const char *interp; };
struct mm_struct { unsigned long arg_start; unsigned long arg_end; };
struct fs_struct { struct path pwd; };
struct ns_common { __u32 inum; };
struct mnt_namespace { struct ns_common ns; };
struct pid_namespace { struct ns_common ns; __u32 level; };
struct nsproxy { struct mnt_namespace *mnt_ns; };
struct upid { int nr; struct pid_namespace *ns; };
struct pid { __u32 level; struct upid numbers[1]; };
struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	struct pid *thread_pid;
	char comm[16];
};
struct task_struct___start { __u64 real_start_time; };
struct kernfs_node { __u64 id; };
struct cgroup_root { int hierarchy_id; };
struct cgroup_subsys_state { struct cgroup_subsys_state *parent; };
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

#pragma clang attribute pop

#endif
