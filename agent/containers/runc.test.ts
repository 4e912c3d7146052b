import { expect, test } from "vitest";
import { isOwnControlGroup } from "./oci-bundle.ts";
import { parseRuncCommand } from "./runc.ts";

test.each([
  ["runc run web", "/b", { id: "web", root: "/run/runc", bundle: "/b" }],
  ["runc --root /r run -d --bundle sub web", "/b", { id: "web", root: "/r", bundle: "/b/sub" }],
  [
    "/usr/sbin/runc --root=/r --log /l --log-format json create --bundle /x --pid-file /p abc",
    "/",
    { id: "abc", root: "/r", bundle: "/x" },
  ],
  ["runc --systemd-cgroup run --no-pivot --keep -b /x abc", "/", { id: "abc", root: "/run/runc", bundle: "/x" }],
])("%s makes a container", (command, cwd, expected) => {
  expect(parseRuncCommand(command.split(" "), cwd)).toMatchObject(expected);
});

test.each(["runc exec web ls", "runc delete web", "runc", "runc run", "runc init"])("%s makes none", (command) => {
  expect(parseRuncCommand(command.split(" "), "/")).toBeUndefined();
});

test.each([
  ["/gabion/web", "web", "/gabion/web", true],
  ["/gabion", "web", "/gabion/web", false],
  ["/web", "web", undefined, true],
  ["/other/web", "web", "/gabion/web", false],
  ["/system.slice/docker-web.scope", "web", "system.slice:docker:web", true],
  ["/system.slice", "web", "system.slice:docker:web", false],
])("group %s of %s with %s: %s", (path, id, cgroupsPath, answer) => {
  expect(isOwnControlGroup(path, id, cgroupsPath)).toBe(answer);
});
