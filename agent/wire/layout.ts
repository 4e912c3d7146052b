/**
 * Layout of the frames in agent/sensor/gabion_wire.h: offset of each field in bytes, little endian. A test compares it
 * with the BTF of the compiled header.
 */
export const WIRE_VERSION = 1;
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
  SLOT_LOAD: 64,
  SLOT_DROP: 65,
  BIND: 66,
  UNBIND: 67,
  FILES_PUT: 68,
  FILES_DROP: 69,
  THAW: 70,
  KILL: 71,
  PING: 72,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

export const Outcome = { OBSERVED: 0, ASKED: 1, AUDITED: 2, KILLED: 3, KILLED_CONTAINER: 4, HELD: 5 } as const;
export const Action = { ALLOW: 1, ASK: 2, AUDIT: 3, KILL_PROCESS: 4, KILL_CONTAINER: 5 } as const;
export const EntryKind = { ITEM_CONTENT: 1, ITEM: 2, PATH: 3, NAME: 4, DIRECTORY: 5 } as const;
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
} as const;
export const CgroupFlag = {
  SCOPE: 1 << 0,
  PENDING: 1 << 1,
  BOUND: 1 << 2,
  OWN_PIDNS: 1 << 3,
  HOST_MOUNTS: 1 << 4,
  NESTED: 1 << 5,
} as const;
export const Group = { PROCESS: 1 << 0, CGROUP: 1 << 1, KILL_CONTAINER: 1 << 2 } as const;

/** Content of a file that is the image's own. */
export const CONTENT_IMAGE = 1n;

const EVENT = { ktime_ns: 8, cgroup_id: 16, slot: 24, entry: 28 };

/** Size of each struct and offset of its fields; nested structs are flattened. */
export const LAYOUT = {
  gabion_frame: { size: 8, fields: { length: 0, type: 4, version: 6, outcome: 7 } },
  gabion_event: { size: 32, fields: EVENT },
  exec_event: {
    size: 2432,
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
      comm: 112,
      path: 128,
      filename: 640,
      cwd: 1152,
      argv: 1408,
    },
  },
  exit_event: { size: 48, fields: { start_ns: 32, pid: 40, exit_code: 44 } },
  cgroup_event: { size: 1088, fields: { parent_id: 32, creator_pid: 40, flags: 44, comm: 48, path: 64 } },
  hello_frame: {
    size: 344,
    fields: { groups: 8, host_mount_ns: 12, host_pid_ns: 16, reserved: 20, kernel_release: 24, missing: 88 },
  },
  stats_row: { size: 48, fields: { cgroup_id: 0, seen: 8, allowed: 16, emitted: 24, lost: 32, killed: 40 } },
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
  ack_frame: { size: 128, fields: { request: 8, error: 12, message: 16 } },
  hold_frame: { size: 16, fields: { cgroup_id: 8 } },
  control_frame: {
    size: 48,
    fields: {
      request: 8,
      slot: 12,
      cgroup_id: 16,
      flags: 24,
      count: 28,
      path_length: 32,
      default_action: 36,
      foreign_action: 40,
      device: 44,
    },
  },
  slot_entry: {
    size: 24,
    fields: { kind: 0, action: 2, entry: 4, content: 8, first_length: 16, second_length: 18, reserved: 20 },
  },
  file_entry: { size: 32, fields: { inode: 0, device: 8, reserved: 12, ctime_ns: 16, content: 24 } },
} as const;
