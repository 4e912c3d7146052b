import type { BigIntStats } from "node:fs";

/** What tells one state of a file from all others: it changes whenever the file is written or replaced. */
export interface FileIdentity {
  readonly inode: bigint;
  /** major << 20 | minor, as the kernel has it. */
  readonly device: number;
  readonly ctimeNs: bigint;
}

/** The kernel's device number from that of stat, which glibc spreads over 64 bits. */
export function kernelDevice(dev: bigint): number {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  return Number((major << 20n) | (minor & 0xfffffn));
}

/** Identity of a file by its status. */
export function identityOf(status: BigIntStats): FileIdentity {
  return { inode: status.ino, device: kernelDevice(status.dev), ctimeNs: status.ctimeNs };
}

/** True if both are the same state of the same file. */
export function isSameFile(a: FileIdentity, b: FileIdentity): boolean {
  return a.inode === b.inode && a.device === b.device && a.ctimeNs === b.ctimeNs;
}

/** Key for maps. */
export function identityKey({ inode, device, ctimeNs }: FileIdentity): string {
  return `${device}:${inode}:${ctimeNs}`;
}
