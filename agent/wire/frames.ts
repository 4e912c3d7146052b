/** Frames of the sensor in the agent's terms. Texts are bytes as the kernel gave them, cut at their limits. */

export interface HelloFrame {
  readonly kind: "hello";
  readonly groups: number;
  readonly hostMountNs: number;
  readonly hostPidNs: number;
  readonly kernelRelease: string;
  readonly missing: string;
}

export interface ExecFrame {
  readonly kind: "exec";
  /** What the kernel did: a value of `Outcome`. */
  readonly outcome: number;
  readonly ktimeNs: bigint;
  /** Control group of the container. */
  readonly cgroupId: bigint;
  readonly slot: number;
  readonly startNs: bigint;
  readonly parentStartNs: bigint;
  readonly inode: bigint;
  readonly device: number;
  readonly ctimeNs: bigint;
  readonly content: bigint;
  readonly pid: number;
  readonly parentPid: number;
  readonly uid: number;
  readonly gid: number;
  readonly pidNs: number;
  readonly flags: number;
  /** Inode of the other end where standard input is a Unix socket; 0 otherwise. */
  readonly inputPeer: number;
  readonly comm: Uint8Array;
  readonly path: Uint8Array;
  readonly filename: Uint8Array;
  readonly cwd: Uint8Array;
  readonly args: readonly Uint8Array[];
}

export interface ExitFrame {
  readonly kind: "exit";
  readonly ktimeNs: bigint;
  readonly cgroupId: bigint;
  readonly startNs: bigint;
  readonly pid: number;
  readonly exitCode: number;
}

/** Who did something that is not an exec, as the kernel saw it at that moment. */
export interface Actor {
  /** 0 where the kernel acted on behalf of a socket. */
  readonly pid: number;
  readonly startNs: bigint;
  readonly parentPid: number;
  readonly parentStartNs: bigint;
  readonly uid: number;
  readonly gid: number;
  /** True for pid 1 of its pid namespace. */
  readonly isFirst: boolean;
  /** True if `exe` was longer than its field. */
  readonly isCut: boolean;
  readonly comm: Uint8Array;
  /** Real path of its program. */
  readonly exe: Uint8Array;
}

/** What every event of a container begins with. */
export interface EventHead {
  /** What the kernel did: a value of `Outcome`. */
  readonly outcome: number;
  readonly ktimeNs: bigint;
  readonly cgroupId: bigint;
  readonly slot: number;
}

/** Addresses are 4 or 16 bytes. */
export interface ConnectFrame extends EventHead {
  readonly kind: "connect";
  readonly actor: Actor;
  readonly address: Uint8Array;
  readonly port: number;
  /** Protocol number, 6 for TCP. */
  readonly transport: number;
  readonly flags: number;
  readonly domain: Uint8Array;
}

export interface ListenFrame extends EventHead {
  readonly kind: "listen";
  readonly actor: Actor;
  readonly address: Uint8Array;
  readonly port: number;
  readonly transport: number;
  readonly flags: number;
}

export interface SocketFrame extends EventHead {
  readonly kind: "socket";
  readonly actor: Actor;
  readonly family: number;
  readonly type: number;
  readonly protocol: number;
}

export interface DnsFrame extends EventHead {
  readonly kind: "dns";
  readonly actor: Actor;
  readonly name: Uint8Array;
  readonly recordType: number;
  readonly questionCount: number;
  readonly responseCode: number;
  readonly payloadLength: number;
  readonly resolver: Uint8Array;
  readonly answers: readonly Uint8Array[];
  readonly flags: number;
}

export interface FileFrame extends EventHead {
  readonly kind: "file";
  readonly actor: Actor;
  readonly inode: bigint;
  readonly device: number;
  readonly mode: number;
  /** As `gabion.event.v1.FileOperation`. */
  readonly operation: number;
  readonly flags: number;
  readonly path: Uint8Array;
  readonly target: Uint8Array;
  readonly base: Uint8Array;
  readonly targetBase: Uint8Array;
}

export interface SyscallFrame extends EventHead {
  readonly kind: "syscall";
  readonly actor: Actor;
  readonly number: number;
  readonly flags: number;
}

/** A destination that answered for the first time, or an attempt that came to nothing. */
export interface ContactFrame extends EventHead {
  readonly kind: "contact";
  readonly address: Uint8Array;
  readonly port: number;
  readonly transport: number;
  readonly isFailed: boolean;
  readonly error: number;
}

export interface RedirectFrame extends EventHead {
  readonly kind: "redirect";
  readonly actor: Actor;
  readonly descriptor: number;
}

/** An open or exec that the file system watch refused. */
export interface RefusedFrame extends EventHead {
  readonly kind: "refused";
  readonly pid: number;
  readonly isExec: boolean;
  readonly path: Uint8Array;
}

/** A file that was open for writing was closed. */
export interface WrittenFrame extends EventHead {
  readonly kind: "written";
  readonly inode: bigint;
  readonly device: number;
  readonly ctimeNs: bigint;
  /** In bytes. */
  readonly size: bigint;
  /** Of who closed it. */
  readonly pid: number;
  /** Under which the sensor keeps it open for a while. */
  readonly descriptor: number;
  readonly path: Uint8Array;
}

/** Events that carry who did it. */
export type ActorFrame = ConnectFrame | ListenFrame | SocketFrame | DnsFrame | FileFrame | SyscallFrame | RedirectFrame;
/** Everything that happens in a container, in the order in which it is judged. */
export type ContainerFrame = ExecFrame | ActorFrame | ContactFrame | RefusedFrame | WrittenFrame;

export interface CgroupFrame {
  /** Left: a process of a container has been put into another control group, whose path it is. */
  readonly kind: "cgroup_new" | "cgroup_empty" | "cgroup_gone" | "cgroup_left";
  readonly cgroupId: bigint;
  readonly parentId: bigint;
  /** Who made it; or who left. */
  readonly creatorPid: number;
  readonly flags: number;
  readonly isHeld: boolean;
  readonly path: string;
}

export interface StatsRow {
  readonly cgroupId: bigint;
  /** As `gabion.event.v1.Section`. */
  readonly section: number;
  readonly seen: bigint;
  readonly allowed: bigint;
  readonly emitted: bigint;
  readonly lost: bigint;
  /** Or denied. */
  readonly killed: bigint;
  /** Part of `lost`: more than one container may send. */
  readonly throttled: bigint;
}

export interface StatsFrame {
  readonly kind: "stats";
  readonly rows: readonly StatsRow[];
  readonly lostInPipe: bigint;
  readonly lostInRing: bigint;
  readonly decideNs: bigint;
  readonly decideCount: bigint;
  /** How often a decision took each 64 ns; the last stands for everything above. Zero unless measuring. */
  readonly decideBuckets: readonly bigint[];
}

/** What the entries of a container's policy let through without telling it, since the frame before. */
export interface HitsFrame {
  readonly kind: "hits";
  readonly cgroupId: bigint;
  readonly slot: number;
  /** Number of the entry, from 1 in the order of its slot, and how often. */
  readonly rows: readonly { readonly entry: number; readonly count: number }[];
}

export interface AckFrame {
  readonly kind: "ack";
  readonly request: number;
  /** errno, 0 for success. */
  readonly error: number;
  readonly message: string;
}

export interface HoldExpiredFrame {
  readonly kind: "hold_expired";
  readonly cgroupId: bigint;
}

export type SensorFrame =
  | HelloFrame
  | ContainerFrame
  | ExitFrame
  | CgroupFrame
  | StatsFrame
  | HitsFrame
  | AckFrame
  | HoldExpiredFrame;

/** A frame that says what it cannot mean. After one the stream is not to be trusted any further. */
export interface DecodeFault {
  readonly kind: "fault";
  readonly message: string;
}
