import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

/** Debian's static busybox, unpacked by the set-up. */
export const BUSYBOX = resolve(import.meta.dirname, "../../.cache/busybox/bin/busybox");

/** What a container for demonstrations and tests is made of. */
export interface BundleOptions {
  readonly directory: string;
  /** Arguments of the first process. */
  readonly args: readonly string[];
  /** Programs that each get a file of their own, copied from busybox, for example `/bin/sh`. */
  readonly programs: readonly string[];
  /** Programs that are links to one busybox, as in many images. */
  readonly applets?: readonly string[];
  /** Further files: path inside the container to content and mode. */
  readonly files?: Readonly<Record<string, { readonly content: string | Buffer; readonly mode: number }>>;
  /** Control group, for example `/gabion-demo/web`. */
  readonly cgroupsPath: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly busybox?: string;
  /** Capabilities besides those that every sandbox has, for example `CAP_NET_RAW`. */
  readonly capabilities?: readonly string[];
  /** System calls that a seccomp profile lets through; everything else fails. Without it there is no profile. */
  readonly seccomp?: object;
  /** Environment beside `PATH`, as `NAME=value`. */
  readonly env?: readonly string[];
  /** Limits, as the OCI specification's `linux.resources`. */
  readonly resources?: object;
  /** Folders of the host that are mounted read only: path inside to path outside. */
  readonly readOnlyBinds?: Readonly<Record<string, string>>;
  /** The same, writable: what volumes are. */
  readonly volumes?: Readonly<Record<string, string>>;
  /** True: the root file system is an overlay over what is written here, as of an image. Whoever asks for it unmounts it. */
  readonly isOverlay?: boolean;
  /** Disks that the container may use: path inside to device number as the kernel shows it, for example `7:0`. */
  readonly disks?: Readonly<Record<string, string>>;
  /** False: the host's pid namespace is shared. */
  readonly ownsPidNamespace?: boolean;
  /** The pid namespace of another container, as `/proc/PID/ns/pid`. */
  readonly joinedPidNamespace?: string;
}

const CAPABILITIES = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT", "CAP_NET_BIND_SERVICE"];
/** What no container of a test needs more than, so that one that goes wrong leaves the machine usable. */
const LIMITS = { pids: { limit: 4_096 }, memory: { limit: 1024 ** 3 } };
const MOUNTS = [
  { destination: "/proc", type: "proc", source: "proc" },
  { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=64k"] },
  { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=1777", "size=16m"] },
];

/** Disks as the specification has them: the node, and that it may be used. */
function disksOf({ disks = {} }: BundleOptions): { readonly devices: object[]; readonly rules: object[] } {
  const numbers = Object.entries(disks).map(([path, number]) => {
    const [major, minor] = number.split(":").map(Number);
    return { path, major, minor };
  });
  return {
    devices: numbers.map((each) => ({ ...each, type: "b", fileMode: 0o660, uid: 0, gid: 0 })),
    rules: numbers.map(({ major, minor }) => ({ allow: true, type: "b", major, minor, access: "rwm" })),
  };
}

function configuration(options: BundleOptions): object {
  const { devices, rules } = disksOf(options);
  const pids = options.joinedPidNamespace ? { type: "pid", path: options.joinedPidNamespace } : { type: "pid" };
  const namespaces = [
    ...["ipc", "uts", "mount", "network"].map((type) => ({ type })),
    ...(options.ownsPidNamespace === false ? [] : [pids]),
  ];
  const sets = Object.fromEntries(
    ["bounding", "effective", "permitted"].map((set) => [set, [...CAPABILITIES, ...(options.capabilities ?? [])]]),
  );
  return {
    ociVersion: "1.0.2",
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: options.args,
      env: ["PATH=/bin:/usr/bin", ...(options.env ?? [])],
      cwd: "/",
      capabilities: sets,
      noNewPrivileges: true,
    },
    root: { path: "rootfs", readonly: false },
    hostname: "sandbox",
    mounts: [
      ...MOUNTS,
      ...Object.entries(options.readOnlyBinds ?? {}).map(([destination, source]) => {
        return { destination, type: "bind", source, options: ["bind", "ro"] };
      }),
      ...Object.entries(options.volumes ?? {}).map(([destination, source]) => {
        return { destination, type: "bind", source, options: ["bind", "rw"] };
      }),
    ],
    annotations: options.annotations ?? {},
    linux: {
      namespaces,
      cgroupsPath: options.cgroupsPath,
      devices,
      resources: { ...LIMITS, ...options.resources, ...(rules.length > 0 ? { devices: rules } : {}) },
      ...(options.seccomp ? { seccomp: options.seccomp } : {}),
    },
  };
}

function putFile(rootfs: string, path: string, write: (target: string) => void): string {
  const target = join(rootfs, path);
  mkdirSync(dirname(target), { recursive: true });
  write(target);
  return target;
}

/** Writes an OCI bundle with a root file system made from busybox. */
export function writeBundle(options: BundleOptions): void {
  const busybox = options.busybox ?? BUSYBOX;
  const rootfs = join(options.directory, options.isOverlay ? "image" : "rootfs");
  for (const directory of ["proc", "dev", "tmp", "bin", "etc"]) mkdirSync(join(rootfs, directory), { recursive: true });
  for (const program of options.programs) {
    chmodSync(
      putFile(rootfs, program, (target) => copyFileSync(busybox, target)),
      0o755,
    );
  }
  if (options.applets) {
    chmodSync(
      putFile(rootfs, "/bin/busybox", (target) => copyFileSync(busybox, target)),
      0o755,
    );
    for (const applet of options.applets) putFile(rootfs, applet, (target) => symlinkSync("/bin/busybox", target));
  }
  for (const [path, { content, mode }] of Object.entries(options.files ?? {})) {
    chmodSync(
      putFile(rootfs, path, (target) => writeFileSync(target, content)),
      mode,
    );
  }
  writeFileSync(join(options.directory, "config.json"), JSON.stringify(configuration(options), null, 2));
  if (options.isOverlay) mountOverlay(options.directory);
}

/** Folders of a bundle with an overlay: its layers, and where they are seen as one. */
const LAYERS = { lowerdir: "image", upperdir: "upper", workdir: "work" } as const;

function mountOverlay(directory: string): void {
  for (const folder of ["upper", "work", "rootfs"]) mkdirSync(join(directory, folder));
  const layers = Object.entries(LAYERS).map(([option, folder]) => `${option}=${join(directory, folder)}`);
  execFileSync("mount", ["-t", "overlay", "overlay", "-o", layers.join(","), join(directory, "rootfs")]);
}

/** Takes a bundle's overlay away, where it has one. */
export function unmountOverlay(directory: string): void {
  const rootfs = join(directory, "rootfs");
  if (readFileSync("/proc/self/mounts", "utf8").includes(` ${rootfs} overlay `)) execFileSync("umount", ["-l", rootfs]);
}
