/** Where a container runs in Kubernetes, as its runtime's annotations tell. */
export interface KubernetesPod {
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
  /** True for the container that only holds a pod's namespaces. */
  readonly isPause: boolean;
}

/** What containerd and CRI-O write into a bundle (containerd `pkg/cri/annotations`, CRI-O `pkg/annotations`). */
const KEYS = {
  namespace: ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"],
  pod: ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"],
  container: ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"],
  type: ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"],
} as const;

/** The pod of a container; undefined outside Kubernetes. */
export function kubernetesPod(annotations: Readonly<Record<string, string>>): KubernetesPod | undefined {
  const find = (keys: readonly string[]) =>
    keys.map((key) => annotations[key] ?? "").find((value) => value !== "") ?? "";
  const namespace = find(KEYS.namespace);
  const pod = find(KEYS.pod);
  if (namespace === "" || pod === "") return undefined;
  return { namespace, pod, container: find(KEYS.container), isPause: find(KEYS.type) === "sandbox" };
}

/** Characters of generated names: without vowels and what looks alike (Kubernetes `util/rand`). */
const SAFE = "[bcdfghjklmnpqrstvwxz2456789]";
const NAMES: readonly { readonly kind: string; readonly pattern: RegExp }[] = [
  // A CronJob's Job is named by its minute since 1970: eight digits until 2160.
  { kind: "CronJob", pattern: new RegExp(`^(.+)-\\d{8}-${SAFE}{5}$`) },
  { kind: "Deployment", pattern: new RegExp(`^(.+)-${SAFE}{6,10}-${SAFE}{5}$`) },
  { kind: "StatefulSet", pattern: /^(.+)-\d{1,4}$/ },
  // DaemonSets, Jobs and ReplicaSets name their pods alike.
  { kind: "Controller", pattern: new RegExp(`^(.+)-${SAFE}{5}$`) },
];

/**
 * The controlling workload of a pod, told by how controllers name what they make: `Deployment/web` for
 * `web-6d4cf56db6-x7k2p`. Pods of one workload always come to the same answer, which is what a model's key needs; the kind
 * is a conclusion, and `Controller` where several name alike. A pod that nobody made but a person stands for itself.
 */
export function workloadOfPod(pod: string): string {
  for (const { kind, pattern } of NAMES) {
    const name = pattern.exec(pod)?.[1];
    if (name !== undefined) return `${kind}/${name}`;
  }
  return `Pod/${pod}`;
}
