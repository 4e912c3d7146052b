import { createHash } from "node:crypto";
import type { ModelScope } from "#gen/gabion/workload/v1/workload_pb.ts";

/**
 * The printable key of a model: a digest over cluster, namespace, workload and image digest, each preceded by its
 * length, so that no two scopes share a text.
 */
export function modelKey(scope: Pick<ModelScope, "cluster" | "namespace" | "workload" | "imageDigest">): string {
  const parts = [scope.cluster, scope.namespace, scope.workload, scope.imageDigest];
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}:${part};`);
  return `m-${hash.digest("hex").slice(0, 32)}`;
}
