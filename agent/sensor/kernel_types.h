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
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_HASH = 5, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LRU_HASH = 9,
       BPF_MAP_TYPE_LPM_TRIE = 11, BPF_MAP_TYPE_RINGBUF = 27,
       BPF_MAP_TYPE_CGRP_STORAGE = 32 };
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr { const unsigned char *name; __u32 len; };
struct super_block { __u32 s_dev; unsigned long s_magic; };
struct timespec64 { __s64 tv_sec; long tv_nsec; };
struct kuid { __u32 val; };
struct inode {
	__u16 i_mode;
	struct kuid i_uid;
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
struct file { struct path f_path; struct inode *f_inode; __u32 f_mode; void *private_data; };
struct fdtable { __u32 max_fds; struct file **fd; };
struct files_struct { struct fdtable *fdt; };
struct ovl_entry;
struct ovl_inode { struct inode vfs_inode; struct dentry *__upperdentry; struct ovl_entry *oe; };
struct linux_binprm { struct file *file; const char *filename; const char *interp; };
struct mm_struct { unsigned long arg_start; unsigned long arg_end; struct file *exe_file; };
struct fs_struct { struct path root; struct path pwd; };
struct ns_common { __u32 inum; };
struct mnt_namespace { struct ns_common ns; };
struct pid_namespace { struct ns_common ns; __u32 level; };
struct nsproxy { struct mnt_namespace *mnt_ns; };
struct upid { int nr; struct pid_namespace *ns; };
struct pid { __u32 level; struct upid numbers[1]; };
struct thread_info { __u32 status; };
struct atomic { int counter; };
struct signal_struct { struct atomic live; };
struct cgroup;
struct css_set { struct cgroup *dfl_cgrp; };
struct pt_regs { unsigned long bx, r10, r8, cx, dx, si, di, orig_ax; };
struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	int exit_code;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct signal_struct *signal;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
	struct pid *thread_pid;
	char comm[16];
};
struct task_struct___start { __u64 real_start_time; };
struct kernfs_node { __u64 id; const char *name; };
struct cgroup_root { int hierarchy_id; };
struct cgroup_subsys_state { struct cgroup_subsys_state *parent; };
struct sock_cgroup_data { struct cgroup *cgroup; };
struct in6_addr { union { __u8 u6_addr8[16]; __be32 u6_addr32[4]; } in6_u; };
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	int sk_err;
	unsigned char sk_userlocks;
	struct sock_cgroup_data sk_cgrp_data;
	__u16 sk_protocol;
	__u16 sk_type;
	struct socket *sk_socket;
};
struct socket { struct file *file; struct sock *sk; };
struct unix_sock { struct sock *peer; };
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	void *bpf_cgrp_storage;
};

/* Requests of io_uring: each operation keeps what it was asked where the request begins. */
struct filename { const char *name; };
struct open_how { __u64 flags; };
struct io_kiocb { __u8 opcode; };
struct io_open { int dfd; struct filename *filename; struct open_how how; };
struct io_rename { int old_dfd; int new_dfd; struct filename *oldpath; struct filename *newpath; };
struct io_unlink { int dfd; struct filename *filename; };
struct io_link { int old_dfd; int new_dfd; struct filename *oldpath; struct filename *newpath; int flags; };
struct io_socket { int domain; int type; int protocol; };

#pragma clang attribute pop

/* What cgroup programs are given: part of the kernel's interface, so with fixed offsets. */
struct bpf_sock {
	__u32 bound_dev_if, family, type, protocol, mark, priority, src_ip4, src_ip6[4], src_port;
	__be16 dst_port;
	__u16 padding;
	__u32 dst_ip4, dst_ip6[4], state;
	__s32 rx_queue_mapping;
};
struct bpf_sock_addr {
	__u32 user_family, user_ip4, user_ip6[4], user_port, family, type, protocol, msg_src_ip4, msg_src_ip6[4];
	union { struct bpf_sock *sk; __u64 sk_bits; } __attribute__((aligned(8)));
};
struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	__u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	__u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	__u64 flow_keys, tstamp;
	__u32 wire_len, gso_segs;
	union { struct bpf_sock *sk; __u64 sk_bits; } __attribute__((aligned(8)));
	__u32 gso_size;
};

#endif
