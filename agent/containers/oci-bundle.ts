import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import type { BundleMount } from "./given-resolvers.ts";

const NAMESPACE = z.object({ type: z.string(), path: z.string().optional() });
const MOUNT = z.object({
  destination: z.string(),
  source: z.string().default(""),
  type: z.string().default(""),
  options: z.array(z.string()).default([]),
});
const CONFIG = z.object({
  hostname: z.string().optional(),
  process: z.object({
    args: z.array(z.string()).default([]),
    cwd: z.string().default("/"),
    env: z.array(z.string()).default([]),
    user: z.object({ uid: z.number().default(0), gid: z.number().default(0) }).default({ uid: 0, gid: 0 }),
  }),
  root: z.object({ path: z.string() }),
  mounts: z.array(MOUNT).default([]),
  annotations: z.record(z.string(), z.string()).default({}),
  linux: z
    .object({ namespaces: z.array(NAMESPACE).default([]), cgroupsPath: z.string().optional() })
    .default({ namespaces: [] }),
});

/** What the agent reads from an OCI bundle. */
export interface OciBundle {
  readonly directory: string;
  readonly rootfs: string;
  readonly process: {
    readonly args: readonly string[];
    readonly cwd: string;
    readonly uid: number;
    readonly gid: number;
    /** As `NAME=value`; it may hold secrets, and is only looked at on this node. */
    readonly env: readonly string[];
  };
  /** EXPOSE of the image, as `80/tcp`. */
  readonly exposedPorts: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
  /** True if the pid namespace is made for this container and not joined. */
  readonly ownsPidNamespace: boolean;
  /** Pid namespace that it joins, where it joins one. */
  readonly joinedPidNamespace: string | undefined;
  readonly hasMountNamespace: boolean;
  /** Control group asked for; undefined where the runtime chooses. */
  readonly cgroupsPath: string | undefined;
  /** Address of the Kubernetes API server that the kubelet told it; empty for none. */
  readonly kubernetesApi: string;
  /** In their order: later ones lie over earlier ones. */
  readonly mounts: readonly BundleMount[];
}

/** Which variable tells pods where the API server is: Kubernetes' "Accessing the API from a Pod". */
const API_SERVER = "KUBERNETES_SERVICE_HOST=";

function apiServer(env: readonly string[]): string {
  const address = env.find((entry) => entry.startsWith(API_SERVER))?.slice(API_SERVER.length) ?? "";
  return isIP(address) === 0 ? "" : address;
}

/** Where the image's EXPOSE goes in a bundle (OCI image specification, "Annotation Fields" of its conversion). */
const EXPOSED_PORTS = "org.opencontainers.image.exposedPorts";

/** Larger configurations than this are not read. */
const CONFIG_MAX_BYTES = 4 * 1024 * 1024;

/** Reads `config.json` of a bundle. Throws with the reason where it cannot be used. */
export function readBundle(directory: string): OciBundle {
  const file = join(directory, "config.json");
  if (statSync(file).size > CONFIG_MAX_BYTES) throw new Error(`${file} is larger than ${CONFIG_MAX_BYTES} bytes`);
  const config = CONFIG.parse(JSON.parse(readFileSync(file, "utf8")));
  const root = config.root.path;
  const pid = config.linux.namespaces.find(({ type }) => type === "pid");
  const { args, cwd, env, user } = config.process;
  return {
    directory,
    rootfs: isAbsolute(root) ? root : resolve(directory, root),
    process: { args, cwd, uid: user.uid, gid: user.gid, env },
    exposedPorts: (config.annotations[EXPOSED_PORTS] ?? "").split(",").filter((port) => port !== ""),
    annotations: config.annotations,
    ownsPidNamespace: pid !== undefined && !pid.path,
    joinedPidNamespace: pid?.path || undefined,
    hasMountNamespace: config.linux.namespaces.some(({ type }) => type === "mount"),
    cgroupsPath: config.linux.cgroupsPath,
    kubernetesApi: apiServer(env),
    mounts: config.mounts,
  };
}

/**
 * True if a control group is the container's own and not one above it, which the runtime makes too. With systemd's
 * notation `slice:prefix:name` the group is `prefix-name.scope`.
 */
export function isOwnControlGroup(path: string, id: string, cgroupsPath: string | undefined): boolean {
  if (cgroupsPath === undefined) return path.endsWith(`/${id}`);
  const [, prefix, name] = cgroupsPath.split(":");
  if (name !== undefined) return path.endsWith(`/${prefix === "" ? name : `${prefix}-${name}`}.scope`);
  return path === cgroupsPath || path.endsWith(cgroupsPath.startsWith("/") ? cgroupsPath : `/${cgroupsPath}`);
}
