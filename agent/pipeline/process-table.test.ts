import { spawnSync } from "node:child_process";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ProcessSchema } from "#gen/gabion/event/v1/event_pb.ts";
import { startTicks } from "../containers/runc.ts";
import { TICK_NS } from "../enforce/stop.ts";
import { execId, ProcessTable } from "./process-table.ts";

const BOOT = "0123456789";
const OWN_START = (startTicks(process.pid) ?? 0n) * TICK_NS;

function named(pid: number, path: string, startNs: bigint) {
  return create(ProcessSchema, { execId: execId(BOOT, pid, startNs), pid, path });
}

test("a process that was there before is taken from /proc, with its ancestors", () => {
  const table = new ProcessTable(BOOT);
  const [own, parent] = table.ancestors(process.pid, OWN_START + 3n);
  expect(own?.path).toBe(process.execPath);
  expect(parent?.pid).toBe(process.ppid);
});

test("whoever has the pid of a parent that ended is no parent, from /proc or as it was known", () => {
  const table = new ProcessTable(BOOT);
  expect(table.ancestors(process.pid, OWN_START - TICK_NS)).toEqual([]);
  table.add(named(process.pid, "/bin/old", 5n), 5n, 1);
  expect(table.ancestors(process.pid, OWN_START)[0]?.path).toBe(process.execPath);
  const { pid } = spawnSync("/bin/true");
  table.add(named(pid, "/bin/gone", 7n), 7n, 1);
  expect(table.ancestors(pid, 9n * TICK_NS)).toEqual([]);
  expect(table.ancestors(pid, 0n).map(({ path }) => path)).toEqual(["/bin/gone"]);
});

test("an ancestor that began after its child is none", () => {
  const table = new ProcessTable(BOOT);
  const { pid } = spawnSync("/bin/true");
  table.add(named(pid, "/bin/child", TICK_NS), TICK_NS, process.pid);
  expect(table.ancestors(pid, TICK_NS).map(({ path }) => path)).toEqual(["/bin/child"]);
});
