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

export interface CgroupFrame {
  readonly kind: "cgroup_new" | "cgroup_empty" | "cgroup_gone";
  readonly cgroupId: bigint;
  readonly parentId: bigint;
  readonly creatorPid: number;
  readonly flags: number;
  readonly isHeld: boolean;
  readonly path: string;
}

export interface StatsRow {
  readonly cgroupId: bigint;
  readonly seen: bigint;
  readonly allowed: bigint;
  readonly emitted: bigint;
  readonly lost: bigint;
  readonly killed: bigint;
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

export type SensorFrame = HelloFrame | ExecFrame | ExitFrame | CgroupFrame | StatsFrame | AckFrame | HoldExpiredFrame;

/** A frame that says what it cannot mean. After one the stream is not to be trusted any further. */
export interface DecodeFault {
  readonly kind: "fault";
  readonly message: string;
}
