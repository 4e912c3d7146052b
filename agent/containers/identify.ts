import { createHash } from "node:crypto";
import { statSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { modelKey } from "#core/model/key.ts";
import { kubernetesPod, workloadOfPod } from "#core/workload/kubernetes.ts";
import {
  type Container,
  ContainerSchema,
  DigestSource,
  ImageSchema,
  ModelScopeSchema,
} from "#gen/gabion/workload/v1/workload_pb.ts";
import { kernelDevice } from "../content/file-identity.ts";
import type { HashCache } from "../content/hash-cache.ts";
import { type Manifest, readManifest } from "../content/manifest.ts";
import type { GivenResolvers } from "./given-resolvers.ts";
import { type OciBundle, readBundle } from "./oci-bundle.ts";
import type { RuncContainer } from "./runc.ts";

/** A container with everything that is known of it before it runs. */
export interface IdentifiedContainer {
  readonly message: Container;
  readonly runc: RuncContainer;
  readonly bundle: OciBundle;
  readonly manifest: Manifest;
  /** Device of the root file system, as the kernel numbers it. */
  readonly rootDevice: number;
  /** Addresses of the resolvers that it was given; none where that is not known. */
  readonly resolvers: readonly string[];
}

/** Annotations in which tools leave the image, in the order of trust. */
const IMAGE_NAME = ["org.opencontainers.image.ref.name", "io.kubernetes.cri.image-name", "io.containers.image.name"];
const IMAGE_DIGEST = ["org.opencontainers.image.digest", "io.kubernetes.cri.image-digest"];
const CONTAINER_NAME = ["org.gabion.container.name"];
const LABELS_MAX = 128;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

function annotation(bundle: OciBundle, names: readonly string[]): string {
  return names.map((name) => bundle.annotations[name] ?? "").find((value) => value !== "") ?? "";
}

/**
 * Digest of a container without an image: over what it runs, as whom and where, and the manifest of its root file
 * system. The environment is left out: it differs from run to run.
 */
export function contentDigest(bundle: OciBundle, manifest: Manifest): string {
  const { args, cwd, uid, gid } = bundle.process;
  const text = JSON.stringify([args, cwd, uid, gid, manifest.digest]);
  return `sha256:${createHash("sha256").update(text).digest("hex")}`;
}

/** Finds out what a container is, from its bundle and root file system. Throws where the bundle cannot be read. */
export async function identifyContainer(
  runc: RuncContainer,
  context: {
    nodeId: string;
    /** Cluster of the node; empty outside Kubernetes. */
    cluster: string;
    cgroupPath: string;
    isPartlySeen: boolean;
    cache: HashCache;
    resolvers: GivenResolvers;
    /** How long reading the root file system may take. */
    signal: AbortSignal;
  },
): Promise<IdentifiedContainer> {
  const bundle = readBundle(runc.bundle);
  const manifest = await readManifest(bundle.rootfs, context.cache, context.signal);
  const name = annotation(bundle, IMAGE_NAME);
  const given = annotation(bundle, IMAGE_DIGEST) || name.slice(name.indexOf("@") + 1);
  const isGiven = DIGEST.test(given);
  // It would get a model of its own at each start; what was read is known the next time.
  if (manifest.isCutShort && !isGiven) throw new Error("its root file system takes too long to be read");
  const digest = isGiven ? given : contentDigest(bundle, manifest);
  const pod = kubernetesPod(bundle.annotations);
  const scope = create(ModelScopeSchema, {
    imageDigest: digest,
    ...(pod ? { cluster: context.cluster, namespace: pod.namespace, workload: workloadOfPod(pod.pod) } : {}),
  });
  const message = create(ContainerSchema, {
    containerId: runc.id,
    name: (pod?.container || annotation(bundle, CONTAINER_NAME) || runc.id).slice(0, 256),
    image: create(ImageSchema, {
      name: name.slice(0, 512),
      digest,
      digestSource: isGiven ? DigestSource.RUNTIME : DigestSource.CONTENT,
    }),
    modelKey: modelKey(scope),
    modelScope: scope,
    labels: Object.fromEntries(Object.entries(bundle.annotations).slice(0, LABELS_MAX)),
    runtime: "runc",
    cgroupPath: context.cgroupPath,
    startTime: timestampNow(),
    partlySeen: context.isPartlySeen,
    nodeId: context.nodeId,
  });
  const rootDevice = kernelDevice(statSync(bundle.rootfs, { bigint: true }).dev);
  const resolvers = await context.resolvers.of(bundle, context.signal);
  return { message, runc, bundle, manifest, rootDevice, resolvers };
}
