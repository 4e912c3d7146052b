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

#define GABION_WIRE_VERSION 6
#define GABION_MAX_FRAME (1024 * 1024)

#define GABION_PATH_MAX 512
#define GABION_FILENAME_MAX 512
#define GABION_CWD_MAX 256
#define GABION_ARGV_MAX 1024
#define GABION_CGROUP_PATH_MAX 1024
#define GABION_BUCKETS 64
#define GABION_EXE_MAX 256
#define GABION_DOMAIN_MAX 256
#define GABION_ANSWERS_MAX 8
#define GABION_SYSCALLS 512 /* numbers known of each table */
/* Counters for entries of policies, for all containers together; each CPU has one of the stripes. */
#define GABION_COUNTERS 131072
#define GABION_COUNTER_STRIPES 4

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
	GABION_CONNECT = 10,
	GABION_LISTEN = 11,
	GABION_SOCKET = 12,
	GABION_DNS = 13,
	GABION_FILE = 14,
	GABION_SYSCALL = 15,
	GABION_CONTACT = 16,
	GABION_REDIRECT = 17,
	GABION_REFUSED = 18,
	GABION_WRITTEN = 19,
	GABION_HITS = 20,
	GABION_CGROUP_LEFT = 21, /* a process of the container is in another one's control group, or nobody's */

	GABION_SLOT_LOAD = 64,
	GABION_SLOT_DROP = 65,
	GABION_BIND = 66,
	GABION_UNBIND = 67,
	GABION_FILES_PUT = 68,
	GABION_FILES_DROP = 69,
	GABION_THAW = 70,
	GABION_KILL = 71,
	GABION_PING = 72,
	GABION_SENSE = 73,
	GABION_PROTECT = 74,
	GABION_WATCH = 75,
};

/* What was done about an event where it was seen. */
enum gabion_outcome {
	GABION_OBSERVED = 0,	 /* found running by the agent; the kernel never says so */
	GABION_ASKED = 1,	 /* the kernel could not decide */
	GABION_AUDITED = 2,	 /* denied, or found by a detector, with effect alert */
	GABION_KILLED = 3,	 /* the process got SIGKILL before its first instruction */
	GABION_KILLED_CONTAINER = 4, /* as above, and the container's first process too where that is safe */
	GABION_HELD = 5,	 /* for a new control group: frozen until its policy is in place */
	GABION_DENIED = 6,	 /* the act failed, the process goes on */
	GABION_DENIED_CONTAINER = 7, /* as above, and the container's first process was ended where that is safe */
	GABION_ENDED_CONTAINER = 8, /* the act had happened; the process and the container's first one were ended */
};

enum gabion_action {
	GABION_ALLOW = 1,
	GABION_ASK = 2,
	GABION_AUDIT = 3,
	GABION_PREVENT = 4,
	GABION_BLOCK = 5,
};

/* What an entry of a slot is matched with. */
enum gabion_entry_kind {
	GABION_ITEM_CONTENT = 1, /* real path + name + content */
	GABION_ITEM = 2,	 /* real path + name, any content */
	GABION_PATH = 3,	 /* real path, or a script's absolute path */
	GABION_NAME = 4,	 /* name as invoked, or base name of the real path */
	GABION_DIRECTORY = 5,	 /* everything below a directory; ends with a slash */
	GABION_DOMAIN = 6,	 /* a name as it stands, any record type */
	GABION_SUFFIX = 7,	 /* every name below this one */
	GABION_DOMAIN_ITEM = 8,	 /* a learned name; `content` is the record type */
	GABION_FILE_PATH = 9,	 /* a file by its real path */
	GABION_FILE_DIRECTORY = 10, /* every file below a directory; ends with a slash */
	GABION_FILE_ITEM = 11,	 /* directory with its slash + real path of the process that writes there */
	GABION_DESTINATION_ITEM = 12, /* 16 bytes of address off the Internet; `content` is transport << 16 | port */
	GABION_DOMAIN_BAD = 13,	 /* in the slot of intelligence: a name and all below it; ALLOW where it is excepted */
	GABION_SHELL = 14,	 /* base name of a shell: asked about where its streams lead to another process */

	/* From here on the text is a prefix of `prefix` bits, kept in a tree of prefixes. */
	GABION_PREFIXES = 32,
	GABION_LISTEN_DENIED = 32, /* transport (6 TCP, 17 UDP), then the port, most significant byte first */
	GABION_LISTEN_ALLOWED = 33,
	GABION_PORT_DENIED = 34,
	GABION_PORT_ALLOWED = 35,
	GABION_ADDRESS_DENIED = 36, /* 16 bytes; IPv4 as ::ffff:a.b.c.d */
	GABION_ADDRESS_ALLOWED = 37,
	GABION_INTERNAL = 38,	   /* prefixes that are not the Internet */
	GABION_DIRECT = 39,	   /* addresses learned without a look-up */
	GABION_PORT_LEARNED = 40,
	GABION_PORT_INTERNAL = 41, /* ports that a detector looks at where the destination is not the Internet */
	GABION_ADDRESS_BAD = 42,   /* what intelligence lists, in a slot of its own that others refer to */
	GABION_ADDRESS_EXCEPTED = 43, /* and what it excepts, however far around or within what is bad */
	GABION_PORT_LATERAL = 45,  /* the same, where it is not the container itself either */
	GABION_RESOLVER = 44,	   /* who may be asked for names; without any, whoever */
};

/* Words of the set of bits in which a slot says which hashes its lists may hold: one for ten bits of each hash. */
#define GABION_LISTED_WORDS 16

/* What is done where no entry names an object, by kind of object. */
enum gabion_default {
	GABION_DEFAULT_IMAGE = 0,    /* exec of a file of the image */
	GABION_DEFAULT_FOREIGN = 1,  /* exec of any other file */
	GABION_DEFAULT_LISTEN = 2,
	GABION_DEFAULT_CONNECT = 3,  /* to an Internet destination */
	GABION_DEFAULT_INTERNAL = 4, /* to any other */
	GABION_DEFAULT_DIRECT = 5,   /* to an Internet destination on a known port without a look-up before */
	GABION_DEFAULT_RAW = 6,	     /* raw and packet sockets */
	GABION_DEFAULT_DOMAIN = 7,
	GABION_DEFAULT_FILE = 8,
	GABION_DEFAULT_EXECUTABLE = 9, /* a file that is or becomes executable is written, created or marked so */
	GABION_DEFAULT_SYSCALL = 10,
	GABION_DEFAULT_SYSCALL_DENIED = 11,
	GABION_DEFAULT_STREAM = 12,  /* a program whose standard streams are sockets or pipes */
	GABION_DEFAULT_SETUID = 13,
	GABION_DEFAULT_RAW_ICMP = 14,
	GABION_DEFAULT_BAD_ADDRESS = 15, /* a destination that intelligence lists and nothing before it names */
	GABION_DEFAULT_BAD_DOMAIN = 16,	 /* the same of a name */
	GABION_DEFAULT_FOREIGN_RESOLVER = 17, /* who is asked for names and is none of the resolvers */
	GABION_DEFAULTS = 18,
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
	GABION_EXEC_SOCKET_STREAM = 1 << 11, /* standard input is an Internet socket */
	GABION_EXEC_PASSED_STREAMS = 1 << 12, /* standard input and output are pipes or Unix sockets */
	GABION_EXEC_SETUID = 1 << 13,	     /* set-user-ID to somebody else than the caller */
};

enum gabion_cgroup_flag {
	GABION_CGROUP_SCOPE = 1 << 0,	/* inside the watched tree, not known as a container */
	GABION_CGROUP_PENDING = 1 << 1, /* new: the agent has not said what it is */
	GABION_CGROUP_BOUND = 1 << 2,	/* a container with a policy slot */
	/* INVARIANT: set only where the pid namespace belongs to this container alone. */
	GABION_CGROUP_OWN_PIDNS = 1 << 3,
	GABION_CGROUP_HOST_MOUNTS = 1 << 4, /* the container shares the host's mount namespace on purpose */
	GABION_CGROUP_NESTED = 1 << 5,	/* made inside a container */
	GABION_CGROUP_NETWORK = 1 << 6, /* sections in use, beside the process section */
	GABION_CGROUP_DNS = 1 << 7,
	GABION_CGROUP_FILES = 1 << 8,
	GABION_CGROUP_SYSCALLS = 1 << 9,
	GABION_CGROUP_RUNNING = 1 << 10, /* only in BIND: it ran before it was watched */
	GABION_CGROUP_LEARNING = 1 << 11, /* what an entry lets through is to be counted, or else told */
};

enum gabion_group {
	GABION_GROUP_PROCESS = 1 << 0,
	GABION_GROUP_CGROUP = 1 << 1,
	GABION_GROUP_KILL_CONTAINER = 1 << 2, /* the kernel functions for ending a container are there */
	GABION_GROUP_NETWORK = 1 << 3,
	GABION_GROUP_DNS = 1 << 4,
	GABION_GROUP_TCP = 1 << 5,
	GABION_GROUP_SYSCALL = 1 << 6,
	GABION_GROUP_FANOTIFY = 1 << 7,
	GABION_GROUP_RING = 1 << 8,
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
	__u32 input_peer; /* where standard input is a Unix socket: inode of its other end */
	__u32 reserved;
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

/* Who did something that is not an exec. Zero where the kernel did it on behalf of a socket. */
struct gabion_actor {
	__u64 start_ns;
	__u64 parent_start_ns;
	__u32 pid;
	__u32 parent_pid;
	__u32 uid;
	__u32 gid;
	__u32 pid_ns;
	__u16 exe_length;
	__u8 is_first; /* pid 1 of its pid namespace */
	__u8 is_cut;   /* the path of the program was longer than its field */
	__u8 comm[16];
	__u8 exe[GABION_EXE_MAX]; /* real path of its program */
};

/* Addresses are 16 bytes everywhere; IPv4 stands as ::ffff:a.b.c.d. Ports are in host order. */
enum gabion_connect_flag {
	GABION_CONNECT_INTERNET = 1 << 0,
	GABION_CONNECT_DIRECT = 1 << 1,	  /* no look-up came before; only where DNS is watched */
	GABION_CONNECT_LOOPBACK = 1 << 2,
	GABION_CONNECT_DATAGRAM = 1 << 3, /* sendto or sendmsg of a socket that is not connected */
	GABION_CONNECT_ANSWER = 1 << 4,	 /* of a server, by datagrams, to whoever has asked it */
	GABION_CONNECT_FOREIGN_RESOLVER = 1 << 5, /* to the port of look-ups, and to none of the resolvers */
};

struct connect_event {
	struct gabion_event event;
	struct gabion_actor actor;
	__u8 address[16];
	__u16 port;
	__u8 transport; /* protocol number: 6 TCP, 17 UDP, and others */
	__u8 family;	/* 4 or 6 */
	__u32 flags;
	__u16 domain_length;
	__u16 reserved[3];
	__u8 domain[GABION_DOMAIN_MAX]; /* name that the address was last resolved from */
};

enum gabion_listen_flag {
	GABION_LISTEN_EPHEMERAL = 1 << 0, /* the kernel chose the port, or it is of the range for that */
	GABION_LISTEN_BIND = 1 << 1,	  /* told at bind, before anything can arrive */
};

struct listen_event {
	struct gabion_event event;
	struct gabion_actor actor;
	__u8 address[16];
	__u16 port; /* 0 where the kernel has not chosen yet */
	__u8 transport;
	__u8 family;
	__u32 flags;
};

struct socket_event {
	struct gabion_event event;
	struct gabion_actor actor;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 reserved;
};

enum gabion_dns_flag {
	GABION_DNS_ANSWER = 1 << 0,
	GABION_DNS_MALFORMED = 1 << 1,
	GABION_DNS_TCP = 1 << 2,
	GABION_DNS_CUT = 1 << 3, /* more questions or answers than are told here */
};

struct dns_event {
	struct gabion_event event;
	struct gabion_actor actor;
	__u8 resolver[16];
	__u16 resolver_port;
	__u16 record_type;
	__u16 question_count;
	__u16 response_code;
	__u16 answer_count; /* addresses that follow */
	__u16 name_length;
	__u16 payload_length; /* of the whole message */
	__u16 flags;
	__u8 answers[GABION_ANSWERS_MAX][16];
	__u8 name[GABION_DOMAIN_MAX]; /* lower case, dots between labels, none at the end */
};

/* Sections as the agent numbers them. */
enum gabion_section {
	SECTION_PROCESS = 1,
	SECTION_NETWORK,
	SECTION_DNS,
	SECTION_FILES,
	SECTION_SYSCALLS,
	SECTION_CONTACTS, /* of the network section, counted apart: they tell what became of a connection */
};

enum gabion_file_operation {
	GABION_FILE_WRITE = 1,
	GABION_FILE_CREATE = 2,
	GABION_FILE_RENAME = 3,
	GABION_FILE_DELETE = 4,
	GABION_FILE_MODE = 5,
	GABION_FILE_LINK = 6,
};

enum gabion_file_flag {
	GABION_FILE_CUT = 1 << 0,      /* a path was longer than its field */
	GABION_FILE_EXECUTABLE = 1 << 1, /* or a shared library, by its name */
	GABION_FILE_TYPED = 1 << 2,    /* `path` and `target` are as typed, to be joined with their bases */
	GABION_FILE_PROC = 1 << 3,     /* of a process file system: its folders have numbers in their names */
	GABION_FILE_RING = 1 << 4,     /* asked for through io_uring: told when it was asked for, whatever came of it */
	GABION_FILE_FOLLOWED = 1 << 5, /* typed, and a link that it ends with was followed */
	GABION_FILE_ROOTED = 1 << 6,   /* typed by a process with another root than its mounts have */
	GABION_FILE_OWNER = 1 << 7,    /* of a change of the mode: that of the owner only, which makes nothing executable */
};

struct file_event {
	struct gabion_event event;
	struct gabion_actor actor;
	__u64 inode;
	__u32 device;
	__u32 mode;
	__u32 operation;
	__u32 flags;
	__u16 path_length;
	__u16 target_length;
	__u16 base_length; /* of the folder that a relative `path` or `target` begins at; ROOTED: an absolute one too */
	__u16 target_base_length;
	__u8 path[GABION_PATH_MAX];
	__u8 target[GABION_PATH_MAX]; /* second path of rename and link */
	__u8 base[GABION_CWD_MAX];
	__u8 target_base[GABION_CWD_MAX];
};

enum gabion_syscall_flag {
	GABION_SYSCALL_COMPAT = 1 << 0, /* of the 32-bit table */
};

struct syscall_event {
	struct gabion_event event;
	struct gabion_actor actor;
	__u32 number;
	__u32 flags;
};

/* First contact with a destination, or an attempt that came to nothing. */
struct contact_event {
	struct gabion_event event;
	__u8 address[16];
	__u16 port;
	__u8 transport; /* protocol number: 6 TCP, 17 UDP, of which only failures are told */
	__u8 is_failed;
	__s32 error; /* errno, 0 where the socket was closed before an answer came */
};

/* A standard stream of a running program became an Internet socket. */
struct redirect_event {
	struct gabion_event event;
	struct gabion_actor actor;
	__u32 descriptor;
	__u32 reserved;
};

/* Refused by the file system watch: an open or exec that failed with EPERM. */
struct refused_event {
	struct gabion_event event;
	__u32 pid;
	__u32 is_exec;
	__u32 path_length;
	__u32 reserved;
	__u8 path[GABION_PATH_MAX];
};

/* A file that was open for writing was closed. */
struct written_event {
	struct gabion_event event;
	__u64 inode;
	__u64 ctime_ns;
	__u64 size;
	__u32 device; /* major << 20 | minor */
	__u32 pid;    /* of who closed it, which may have ended since */
	__u32 path_length;
	__u32 descriptor; /* of the sensor, which keeps the file open for two seconds: by its path it may be gone */
	__u8 path[GABION_PATH_MAX];
};

struct cgroup_event {
	struct gabion_event event;
	__u64 parent_id;   /* LEFT: the group that it is in now */
	__u32 creator_pid; /* LEFT: the process that left */
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
	__u64 section; /* as the agent numbers them, from 1 */
	__u64 seen;
	__u64 allowed;
	__u64 emitted;
	__u64 lost;
	__u64 killed;	 /* or denied */
	__u64 throttled; /* of the lost ones: more than a container may send */
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

struct hit_row {
	__u32 entry; /* number given by the agent */
	__u32 count; /* acts that it let through since the frame before */
};

/* What the entries of a container's policy let through without telling it. Rows follow. */
struct hits_frame {
	struct gabion_frame frame;
	__u64 cgroup_id;
	__u32 slot;
	__u32 row_count;
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
	__u32 path_length;    /* BIND, UNBIND, THAW, KILL, PROTECT, WATCH: bytes of the control group's path that follow */
	__u32 device;	      /* BIND: of the container's root file system, major << 20 | minor */
};

/* Stands in each SLOT_LOAD between the control frame and the entries. */
struct slot_head {
	__u32 actions[GABION_DEFAULTS];
	__u64 syscalls_allowed[2 * GABION_SYSCALLS / 64]; /* bit for each number; the 32-bit table after the other */
	__u64 syscalls_denied[2 * GABION_SYSCALLS / 64];
	__u32 intel_slot; /* loaded before this one; 0 for none */
	__u32 reserved;
};

/* What PROTECT carries behind the group's path: the files whose opening for writing or running is refused. */
struct protect_entry {
	__u32 flags; /* enum gabion_protect_flag */
	__u32 host_length; /* bytes of the path on the host to mark; the texts follow, padded to 8 together */
	__u32 path_length; /* bytes of the path inside the container that is refused */
	__u32 reserved;
};

enum gabion_protect_flag {
	GABION_PROTECT_WRITE = 1 << 0,	   /* opening for writing is refused */
	GABION_PROTECT_EXEC = 1 << 1,	   /* running is refused */
	GABION_PROTECT_DIRECTORY = 1 << 2, /* everything below the path, which ends with a slash */
	GABION_PROTECT_MARK = 1 << 3,	   /* only marks a folder; names nothing */
	GABION_PROTECT_LISTED = 1 << 4,	   /* may run; where such entries are, nothing else may */
};

/* What WATCH carries behind the group's path: mounts of the container whose written files are told. */
struct watch_entry {
	__u64 mount_id;
	__u32 path_length; /* of the path on the host that leads to the mount; it follows, padded to 8 */
	__u32 reserved;
};

struct slot_entry {
	__u16 kind;
	__u16 action;
	__u32 entry;
	__u64 content;
	__u16 first_length; /* path or name; the text follows, then the second one, padded to 8 together */
	__u16 second_length;
	__u32 prefix; /* bits that count, for kinds from GABION_PREFIXES on */
};

struct file_entry {
	__u64 inode;
	__u32 device;
	__u32 reserved;
	__u64 ctime_ns;
	__u64 content;
};

_Static_assert(sizeof(struct gabion_event) == 32, "event header");
_Static_assert(sizeof(struct exec_event) == 32 + 40 + 32 + 8 + 8 + 16 + 2304, "exec event");
_Static_assert(sizeof(struct gabion_actor) == 312, "actor");
_Static_assert(sizeof(struct connect_event) == 32 + 312 + 32 + 256, "connect event");
_Static_assert(sizeof(struct listen_event) == 32 + 312 + 24, "listen event");
_Static_assert(sizeof(struct dns_event) == 32 + 312 + 32 + 128 + 256, "DNS event");
_Static_assert(sizeof(struct file_event) == 32 + 312 + 32 + 1536, "file event");
_Static_assert(sizeof(struct hit_row) == 8, "hit row");
_Static_assert(sizeof(struct hits_frame) == 24, "hits frame");
_Static_assert(sizeof(struct control_frame) == 40, "control frame");
_Static_assert(sizeof(struct slot_head) == 72 + 256 + 8, "slot head");
_Static_assert(sizeof(struct slot_entry) == 24, "slot entry");
_Static_assert(sizeof(struct file_entry) == 32, "file entry");

#endif
