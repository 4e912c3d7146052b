import { expect, test } from "vitest";
import { writableMounts } from "./mounts.ts";

const MOUNTINFO = `520 480 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a
521 520 0:60 / /proc rw,nosuid - proc proc rw
522 520 0:61 / /tmp rw,nosuid - tmpfs tmpfs rw,size=16384k
523 520 8:1 /data /srv/with\\040blank rw,relatime shared:1 - ext4 /dev/sda1 rw
524 520 8:1 /etc/resolv.conf /etc/resolv.conf ro,relatime - ext4 /dev/sda1 rw
525 520 0:62 / /sys/fs/cgroup rw - cgroup2 cgroup rw
`;

test("mounts that hold files and can be written to are watched, through the root of a process", () => {
  const mounts = writableMounts(MOUNTINFO, 42).map(({ mountId, path }) => [mountId, path.toString()]);
  expect(mounts).toEqual([
    [520n, "/proc/42/root/"],
    [522n, "/proc/42/root/tmp"],
    [523n, "/proc/42/root/srv/with blank"],
  ]);
});
