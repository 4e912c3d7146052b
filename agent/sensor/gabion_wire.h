/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one contract between the kernel programs, the loader and the agent.
 *
 * Frames travel over two pipes: events from the sensor to the agent, control the other way. All numbers are little
 * endian, structs have no hidden padding, a frame's length is a multiple of 8 and includes its header. The TypeScript
 * twin is agent/wire/layout.ts; a test compares both through BTF.
 */
#ifndef GABION_WIRE_H
#define GABION_WIRE_H

#define GABION_WIRE_VERSION 1
#define GABION_MAX_FRAME (1024 * 1024)

#define GABION_PATH_MAX 512
#define GABION_FILENAME_MAX 512
#define GABION_CWD_MAX 256
#define GABION_ARGV_MAX 1024
#define GABION_CGROUP_PATH_MAX 1024
#define GABION_BUCKETS 64

/* A name longer than this is not hashed in the kernel and is therefore never known-good there. */
#define GABION_NAME_MAX 256

enum gabion_frame_type {
	GABION_HELLO = 1,
	GABION_EXEC = 2,
	GABION_EXIT = 3,
	GABION_CGROUP_NEW = 4,
	GABION_CGROUP_EMPTY = 5,
	GABION_CGROUP_GONE = 6,
	GABION_STATS = 7,
	GABION_ACK = 8,
	GABION_HOLD_EXPIRED = 9,

	GABION_SLOT_LOAD = 64,
	GABION_SLOT_DROP = 65,
	GABION_BIND = 66,
	GABION_UNBIND = 67,
	GABION_FILES_PUT = 68,
	GABION_FILES_DROP = 69,
	GABION_THAW = 70,
	GABION_KILL = 71,
	GABION_PING = 72,
};

/* What was done about an event where it was seen. */
enum gabion_outcome {
	GABION_OBSERVED = 0,
	GABION_ASKED = 1,	 /* the kernel could not decide */
	GABION_AUDITED = 2,	 /* denied with effect alert */
	GABION_KILLED = 3,	 /* the process got SIGKILL before its first instruction */
	GABION_KILLED_CONTAINER = 4, /* as above, and the container's first process too where that is safe */
	GABION_HELD = 5,	 /* for a new control group: frozen until its policy is in place */
};

enum gabion_action {
	GABION_ALLOW = 1,
	GABION_ASK = 2,
	GABION_AUDIT = 3,
	GABION_KILL_PROCESS = 4,
	GABION_KILL_CONTAINER = 5,
};

/* What an entry of a slot is matched with. */
enum gabion_entry_kind {
	GABION_ITEM_CONTENT = 1, /* real path + name + content */
	GABION_ITEM = 2,	 /* real path + name, any content */
	GABION_PATH = 3,	 /* real path, or a script's absolute path */
	GABION_NAME = 4,	 /* name as invoked, or base name of the real path */
	GABION_DIRECTORY = 5,	 /* everything below a directory; ends with a slash */
};

/* Content of a file that is the image's own. Every other value is the start of a SHA-256; 0 is unknown. */
#define GABION_CONTENT_IMAGE 1

enum gabion_exec_flag {
	GABION_EXEC_SCRIPT = 1 << 0,
	GABION_EXEC_PATH_TRUNCATED = 1 << 1,
	GABION_EXEC_NAME_TRUNCATED = 1 << 2,
	GABION_EXEC_ARGV_TRUNCATED = 1 << 3,
	GABION_EXEC_MEMFD = 1 << 4,
	GABION_EXEC_UNLINKED = 1 << 5,
	GABION_EXEC_OVERLAY = 1 << 6,
	GABION_EXEC_OVERLAY_UPPER = 1 << 7,
	GABION_EXEC_OVERLAY_NEW = 1 << 8,
	GABION_EXEC_HOST_MOUNTS = 1 << 9,
	GABION_EXEC_FIRST_PROCESS = 1 << 10, /* pid 1 of its pid namespace */
};

enum gabion_cgroup_flag {
	GABION_CGROUP_SCOPE = 1 << 0,	/* inside the watched tree, not known as a container */
	GABION_CGROUP_PENDING = 1 << 1, /* new: the agent has not said what it is */
	GABION_CGROUP_BOUND = 1 << 2,	/* a container with a policy slot */
	/* INVARIANT: set only where the pid namespace belongs to this container alone. */
	GABION_CGROUP_OWN_PIDNS = 1 << 3,
	GABION_CGROUP_HOST_MOUNTS = 1 << 4, /* the container shares the host's mount namespace on purpose */
	GABION_CGROUP_NESTED = 1 << 5,	/* made inside a container */
};

enum gabion_group {
	GABION_GROUP_PROCESS = 1 << 0,
	GABION_GROUP_CGROUP = 1 << 1,
	GABION_GROUP_KILL_CONTAINER = 1 << 2, /* the kernel functions for ending a container are there */
};

struct gabion_frame {
	__u32 length;
	__u16 type;
	__u8 version;
	__u8 outcome;
};

struct gabion_event {
	struct gabion_frame frame;
	__u64 ktime_ns; /* since boot */
	__u64 cgroup_id; /* the container's, also for what happens in nested groups */
	__u32 slot;
	__u32 entry; /* number given by the agent to the entry that decided, 0 for none */
};

struct exec_event {
	struct gabion_event event;
	__u64 start_ns; /* of the process, since boot */
	__u64 parent_start_ns;
	__u64 inode;
	__u64 ctime_ns;
	__u64 content; /* GABION_CONTENT_IMAGE, start of a SHA-256, or 0 */
	__u32 pid;
	__u32 parent_pid;
	__u32 uid;
	__u32 gid;
	__u32 mount_ns;
	__u32 pid_ns;
	__u32 device; /* major << 20 | minor */
	__u32 flags;
	__u16 path_length;
	__u16 filename_length;
	__u16 cwd_length;
	__u16 argv_length;
	__u8 comm[16]; /* of the caller, before the exec */
	__u8 path[GABION_PATH_MAX];
	__u8 filename[GABION_FILENAME_MAX];
	__u8 cwd[GABION_CWD_MAX];
	__u8 argv[GABION_ARGV_MAX]; /* last, and cut off after argv_length rounded up to 8 */
};

struct exit_event {
	struct gabion_event event;
	__u64 start_ns;
	__u32 pid;
	__u32 exit_code; /* as wait(2) gives it */
};

struct cgroup_event {
	struct gabion_event event;
	__u64 parent_id;
	__u32 creator_pid;
	__u32 flags;
	__u8 comm[16]; /* of the process that made it */
	__u8 path[GABION_CGROUP_PATH_MAX]; /* below the cgroup v2 mount, NUL-terminated */
};

struct hello_frame {
	struct gabion_frame frame;
	__u32 groups;
	__u32 host_mount_ns;
	__u32 host_pid_ns;
	__u32 reserved;
	__u8 kernel_release[64];
	__u8 missing[256]; /* which group did not load and why */
};

struct stats_row {
	__u64 cgroup_id;
	__u64 seen;
	__u64 allowed;
	__u64 emitted;
	__u64 lost;
	__u64 killed;
};

/* Once a second where something changed. Rows follow. */
struct stats_frame {
	struct gabion_frame frame;
	__u32 row_count;
	__u32 reserved;
	__u64 lost_in_pipe; /* frames that the agent was too slow for */
	__u64 lost_in_ring; /* events of all kinds that found the ring full */
	__u64 decide_ns;    /* time spent deciding, and how often, where measuring is switched on */
	__u64 decide_count;
	__u64 decide_buckets[GABION_BUCKETS]; /* how often each 64 ns; the last is everything above */
};

struct ack_frame {
	struct gabion_frame frame;
	__u32 request;
	__u32 error; /* errno, 0 for success */
	__u8 message[112];
};

struct hold_frame {
	struct gabion_frame frame;
	__u64 cgroup_id;
};

struct control_frame {
	struct gabion_frame frame;
	__u32 request;
	__u32 slot;
	__u64 cgroup_id;
	__u32 flags;	      /* BIND: enum gabion_cgroup_flag */
	__u32 count;	      /* entries or files that follow */
	__u32 path_length;    /* BIND, UNBIND, THAW, KILL: bytes of the control group's path that follow */
	__u32 default_action; /* SLOT_LOAD: for files of the image that no entry names */
	__u32 foreign_action; /* SLOT_LOAD: the same for files that are not known to be the image's */
	__u32 device;	      /* BIND: of the container's root file system, major << 20 | minor */
};

struct slot_entry {
	__u16 kind;
	__u16 action;
	__u32 entry;
	__u64 content;
	__u16 first_length; /* path or name; the text follows, then the second one, padded to 8 together */
	__u16 second_length;
	__u32 reserved;
};

struct file_entry {
	__u64 inode;
	__u32 device;
	__u32 reserved;
	__u64 ctime_ns;
	__u64 content;
};

_Static_assert(sizeof(struct gabion_event) == 32, "event header");
_Static_assert(sizeof(struct exec_event) == 32 + 40 + 32 + 8 + 16 + 2304, "exec event");
_Static_assert(sizeof(struct control_frame) == 48, "control frame");
_Static_assert(sizeof(struct slot_entry) == 24, "slot entry");
_Static_assert(sizeof(struct file_entry) == 32, "file entry");

#endif
