import { expect, test } from "vitest";
import { kubernetesPod, workloadOfPod } from "./kubernetes.ts";

test.each([
  ["web-6d4cf56db6-x7k2p", "Deployment/web"],
  ["web-6d4cf56db6-zz9mm", "Deployment/web"],
  ["web-api-7c9f8b6d54-2xqtn", "Deployment/web-api"],
  ["db-0", "StatefulSet/db"],
  ["db-12", "StatefulSet/db"],
  ["agent-x7k2p", "Controller/agent"],
  ["backup-29401920-x7k2p", "CronJob/backup"],
  ["debug", "Pod/debug"],
])("pod %s is of %s", (pod, workload) => {
  expect(workloadOfPod(pod)).toBe(workload);
});

test("containerd's and CRI-O's annotations tell the pod; without them there is none", () => {
  const containerd = {
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-name": "web-6d4cf56db6-x7k2p",
    "io.kubernetes.cri.container-name": "nginx",
    "io.kubernetes.cri.container-type": "container",
  };
  const crio = {
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.name": "db-0",
    "io.kubernetes.container.name": "pg",
  };
  expect(kubernetesPod(containerd)).toEqual({
    namespace: "shop",
    pod: "web-6d4cf56db6-x7k2p",
    container: "nginx",
    isPause: false,
  });
  expect(kubernetesPod(crio)).toMatchObject({ namespace: "shop", container: "pg", isPause: false });
  expect(kubernetesPod({ ...containerd, "io.kubernetes.cri.container-type": "sandbox" })?.isPause).toBe(true);
  expect(kubernetesPod({ "org.opencontainers.image.ref.name": "x" })).toBeUndefined();
});
