import type { SyscallFact } from "#gen/gabion/model/v1/model_pb.ts";

/** A seccomp profile in the form of the OCI runtime specification. */
export interface SeccompProfile {
  readonly defaultAction: "SCMP_ACT_ERRNO";
  readonly defaultErrnoRet: number;
  readonly architectures: readonly string[];
  readonly syscalls: readonly { readonly names: readonly string[]; readonly action: "SCMP_ACT_ALLOW" }[];
}

const EPERM = 1;

/**
 * Calls that are not the container's own, and still needed: those by which a process ends, which no sensor sees return;
 * returning from signals; and what runc does between loading the profile and its exec. The last part was found by
 * running containers of runc 1.1.5 with it.
 */
const ALWAYS: readonly string[] = [
  "exit",
  "exit_group",
  "rt_sigreturn",
  "restart_syscall",
  "close",
  "epoll_ctl",
  "epoll_pwait",
  "execve",
  "fcntl",
  "fstat",
  "fstatfs",
  "futex",
  "getdents64",
  "getpid",
  "getppid",
  "gettid",
  "madvise",
  "mmap",
  "munmap",
  "nanosleep",
  "newfstatat",
  "openat",
  "prctl",
  "read",
  "readlinkat",
  "rt_sigaction",
  "rt_sigprocmask",
  "sched_yield",
  "setgid",
  "setgroups",
  "setuid",
  "capget",
  "capset",
  "chdir",
  "sigaltstack",
  "tgkill",
  "write",
];

/** The learned system calls as a profile under which the container can run: everything else fails with EPERM. */
export function toSeccompProfile(items: readonly SyscallFact[]): SeccompProfile {
  const isNamed = ({ name }: SyscallFact) => !name.startsWith("syscall_");
  const names = [...new Set([...ALWAYS, ...items.filter(isNamed).map(({ name }) => name)])].sort();
  const hasCompat = items.some(({ isCompat }) => isCompat);
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: EPERM,
    architectures: ["SCMP_ARCH_X86_64", ...(hasCompat ? ["SCMP_ARCH_X86"] : [])],
    syscalls: [{ names, action: "SCMP_ACT_ALLOW" }],
  };
}

/** Learned calls that a profile cannot name, because the table of this version has no name for them. */
export function withoutName(items: readonly SyscallFact[]): string[] {
  return items.filter(({ name }) => name.startsWith("syscall_")).map(({ name }) => name);
}
