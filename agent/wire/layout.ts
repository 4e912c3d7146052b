/**
 * Layout of the frames in agent/sensor/gabion_wire.h: offset of each field in bytes, little endian. A test compares it
 * with the BTF of the compiled header.
 */
export const WIRE_VERSION = 5;
export const MAX_FRAME_BYTES = 1024 * 1024;
export const HEADER_BYTES = 8;

export const FrameType = {
  HELLO: 1,
  EXEC: 2,
  EXIT: 3,
  CGROUP_NEW: 4,
  CGROUP_EMPTY: 5,
  CGROUP_GONE: 6,
  STATS: 7,
  ACK: 8,
  HOLD_EXPIRED: 9,
  CONNECT: 10,
  LISTEN: 11,
  SOCKET: 12,
  DNS: 13,
  FILE: 14,
  SYSCALL: 15,
  CONTACT: 16,
  REDIRECT: 17,
  REFUSED: 18,
  WRITTEN: 19,
  HITS: 20,
  SLOT_LOAD: 64,
  SLOT_DROP: 65,
  BIND: 66,
  UNBIND: 67,
  FILES_PUT: 68,
  FILES_DROP: 69,
  THAW: 70,
  KILL: 71,
  PING: 72,
  SENSE: 73,
  PROTECT: 74,
  WATCH: 75,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

export const Outcome = {
  OBSERVED: 0,
  ASKED: 1,
  AUDITED: 2,
  KILLED: 3,
  KILLED_CONTAINER: 4,
  HELD: 5,
  DENIED: 6,
  DENIED_CONTAINER: 7,
  ENDED_CONTAINER: 8,
} as const;
export const Action = { ALLOW: 1, ASK: 2, AUDIT: 3, PREVENT: 4, BLOCK: 5 } as const;
export const EntryKind = {
  ITEM_CONTENT: 1,
  ITEM: 2,
  PATH: 3,
  NAME: 4,
  DIRECTORY: 5,
  DOMAIN: 6,
  SUFFIX: 7,
  DOMAIN_ITEM: 8,
  FILE_PATH: 9,
  FILE_DIRECTORY: 10,
  FILE_ITEM: 11,
  DESTINATION_ITEM: 12,
  DOMAIN_BAD: 13,
  LISTEN_DENIED: 32,
  LISTEN_ALLOWED: 33,
  PORT_DENIED: 34,
  PORT_ALLOWED: 35,
  ADDRESS_DENIED: 36,
  ADDRESS_ALLOWED: 37,
  INTERNAL: 38,
  DIRECT: 39,
  PORT_LEARNED: 40,
  PORT_INTERNAL: 41,
  ADDRESS_BAD: 42,
  ADDRESS_EXCEPTED: 43,
} as const;
/** Places of `slot_head.actions`. */
export const Default = {
  IMAGE: 0,
  FOREIGN: 1,
  LISTEN: 2,
  CONNECT: 3,
  INTERNAL: 4,
  DIRECT: 5,
  RAW: 6,
  DOMAIN: 7,
  FILE: 8,
  EXECUTABLE: 9,
  SYSCALL: 10,
  SYSCALL_DENIED: 11,
  STREAM: 12,
  SETUID: 13,
  RAW_ICMP: 14,
  BAD_ADDRESS: 15,
  BAD_DOMAIN: 16,
} as const;
/** Numbers known of each system call table. */
export const SYSCALLS = 512;
export const ExecFlag = {
  SCRIPT: 1 << 0,
  PATH_TRUNCATED: 1 << 1,
  NAME_TRUNCATED: 1 << 2,
  ARGV_TRUNCATED: 1 << 3,
  MEMFD: 1 << 4,
  UNLINKED: 1 << 5,
  OVERLAY: 1 << 6,
  OVERLAY_UPPER: 1 << 7,
  OVERLAY_NEW: 1 << 8,
  HOST_MOUNTS: 1 << 9,
  FIRST_PROCESS: 1 << 10,
  SOCKET_STREAM: 1 << 11,
  PASSED_STREAMS: 1 << 12,
  SETUID: 1 << 13,
} as const;
export const CgroupFlag = {
  SCOPE: 1 << 0,
  PENDING: 1 << 1,
  BOUND: 1 << 2,
  OWN_PIDNS: 1 << 3,
  HOST_MOUNTS: 1 << 4,
  NESTED: 1 << 5,
  NETWORK: 1 << 6,
  DNS: 1 << 7,
  FILES: 1 << 8,
  SYSCALLS: 1 << 9,
  RUNNING: 1 << 10,
  LEARNING: 1 << 11,
} as const;
export const ConnectFlag = { INTERNET: 1 << 0, DIRECT: 1 << 1, LOOPBACK: 1 << 2, DATAGRAM: 1 << 3 } as const;
export const ListenFlag = { EPHEMERAL: 1 << 0, BIND: 1 << 1 } as const;
export const DnsFlag = { ANSWER: 1 << 0, MALFORMED: 1 << 1, TCP: 1 << 2, CUT: 1 << 3 } as const;
export const FileFlag = {
  CUT: 1 << 0,
  EXECUTABLE: 1 << 1,
  TYPED: 1 << 2,
  PROC: 1 << 3,
  RING: 1 << 4,
  FOLLOWED: 1 << 5,
  ROOTED: 1 << 6,
} as const;
export const SyscallFlag = { COMPAT: 1 << 0 } as const;
export const ProtectFlag = { WRITE: 1 << 0, EXEC: 1 << 1, DIRECTORY: 1 << 2, MARK: 1 << 3, LISTED: 1 << 4 } as const;
export const Group = {
  PROCESS: 1 << 0,
  CGROUP: 1 << 1,
  KILL_CONTAINER: 1 << 2,
  NETWORK: 1 << 3,
  DNS: 1 << 4,
  TCP: 1 << 5,
  SYSCALL: 1 << 6,
  FANOTIFY: 1 << 7,
  RING: 1 << 8,
} as const;
/** Groups whose programs see the whole machine, and so run only while some container needs them. */
export const ON_DEMAND = Group.TCP | Group.SYSCALL | Group.RING;

/** Content of a file that is the image's own. */
export const CONTENT_IMAGE = 1n;

/** Size of each struct and offset of its fields; nested structs are left out, their fields stand first. */
export const LAYOUT = {
  gabion_frame: { size: 8, fields: { length: 0, type: 4, version: 6, outcome: 7 } },
  gabion_event: { size: 32, fields: { ktime_ns: 8, cgroup_id: 16, slot: 24, entry: 28 } },
  gabion_actor: {
    size: 312,
    fields: {
      start_ns: 0,
      parent_start_ns: 8,
      pid: 16,
      parent_pid: 20,
      uid: 24,
      gid: 28,
      pid_ns: 32,
      exe_length: 36,
      is_first: 38,
      is_cut: 39,
      comm: 40,
      exe: 56,
    },
  },
  exec_event: {
    size: 2440,
    fields: {
      start_ns: 32,
      parent_start_ns: 40,
      inode: 48,
      ctime_ns: 56,
      content: 64,
      pid: 72,
      parent_pid: 76,
      uid: 80,
      gid: 84,
      mount_ns: 88,
      pid_ns: 92,
      device: 96,
      flags: 100,
      path_length: 104,
      filename_length: 106,
      cwd_length: 108,
      argv_length: 110,
      input_peer: 112,
      comm: 120,
      path: 136,
      filename: 648,
      cwd: 1160,
      argv: 1416,
    },
  },
  exit_event: { size: 48, fields: { start_ns: 32, pid: 40, exit_code: 44 } },
  cgroup_event: { size: 1088, fields: { parent_id: 32, creator_pid: 40, flags: 44, comm: 48, path: 64 } },
  connect_event: {
    size: 632,
    fields: {
      address: 344,
      port: 360,
      transport: 362,
      family: 363,
      flags: 364,
      domain_length: 368,
      reserved: 370,
      domain: 376,
    },
  },
  listen_event: { size: 368, fields: { address: 344, port: 360, transport: 362, family: 363, flags: 364 } },
  socket_event: { size: 360, fields: { family: 344, type: 348, protocol: 352, reserved: 356 } },
  dns_event: {
    size: 760,
    fields: {
      resolver: 344,
      resolver_port: 360,
      record_type: 362,
      question_count: 364,
      response_code: 366,
      answer_count: 368,
      name_length: 370,
      payload_length: 372,
      flags: 374,
      answers: 376,
      name: 504,
    },
  },
  file_event: {
    size: 1912,
    fields: {
      inode: 344,
      device: 352,
      mode: 356,
      operation: 360,
      flags: 364,
      path_length: 368,
      target_length: 370,
      base_length: 372,
      target_base_length: 374,
      path: 376,
      target: 888,
      base: 1400,
      target_base: 1656,
    },
  },
  syscall_event: { size: 352, fields: { number: 344, flags: 348 } },
  contact_event: { size: 56, fields: { address: 32, port: 48, transport: 50, is_failed: 51, error: 52 } },
  redirect_event: { size: 352, fields: { descriptor: 344, reserved: 348 } },
  refused_event: { size: 560, fields: { pid: 32, is_exec: 36, path_length: 40, reserved: 44, path: 48 } },
  written_event: {
    size: 584,
    fields: { inode: 32, ctime_ns: 40, size: 48, device: 56, pid: 60, path_length: 64, descriptor: 68, path: 72 },
  },
  hello_frame: {
    size: 344,
    fields: { groups: 8, host_mount_ns: 12, host_pid_ns: 16, reserved: 20, kernel_release: 24, missing: 88 },
  },
  stats_row: {
    size: 64,
    fields: { cgroup_id: 0, section: 8, seen: 16, allowed: 24, emitted: 32, lost: 40, killed: 48, throttled: 56 },
  },
  stats_frame: {
    size: 560,
    fields: {
      row_count: 8,
      reserved: 12,
      lost_in_pipe: 16,
      lost_in_ring: 24,
      decide_ns: 32,
      decide_count: 40,
      decide_buckets: 48,
    },
  },
  hit_row: { size: 8, fields: { entry: 0, count: 4 } },
  hits_frame: { size: 24, fields: { cgroup_id: 8, slot: 16, row_count: 20 } },
  ack_frame: { size: 128, fields: { request: 8, error: 12, message: 16 } },
  hold_frame: { size: 16, fields: { cgroup_id: 8 } },
  control_frame: {
    size: 40,
    fields: { request: 8, slot: 12, cgroup_id: 16, flags: 24, count: 28, path_length: 32, device: 36 },
  },
  slot_head: {
    size: 336,
    fields: { actions: 0, syscalls_allowed: 72, syscalls_denied: 200, intel_slot: 328, reserved: 332 },
  },
  slot_entry: {
    size: 24,
    fields: { kind: 0, action: 2, entry: 4, content: 8, first_length: 16, second_length: 18, prefix: 20 },
  },
  file_entry: { size: 32, fields: { inode: 0, device: 8, reserved: 12, ctime_ns: 16, content: 24 } },
  watch_entry: { size: 16, fields: { mount_id: 0, path_length: 8, reserved: 12 } },
  protect_entry: { size: 16, fields: { flags: 0, host_length: 4, path_length: 8, reserved: 12 } },
} as const;
