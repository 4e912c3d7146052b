import { execFileSync } from "node:child_process";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { missing } from "../../test/requirements.ts";
import { LAYOUT } from "../wire/layout.ts";

interface BtfMember {
  readonly name: string;
  readonly type_id: number;
  readonly bits_offset: number;
}

interface BtfType {
  readonly id: number;
  readonly kind: string;
  readonly name: string;
  readonly size?: number;
  readonly members?: readonly BtfMember[];
}

const object = resolve(import.meta.dirname, "../../.cache/sensor/layout.bpf.o");
const reason = missing("bpftool", "sensor");

function readBtf(): BtfType[] {
  const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin` };
  const text = execFileSync("bpftool", ["-j", "btf", "dump", "file", object, "format", "raw"], {
    env,
    maxBuffer: 64 * 1024 * 1024,
  });
  return (JSON.parse(text.toString()) as { types: BtfType[] }).types;
}

test.skipIf(reason !== "")("the agent's layout is that of the C header", () => {
  const types = readBtf();
  for (const [name, { size, fields }] of Object.entries(LAYOUT)) {
    const struct = types.find((type) => type.kind === "STRUCT" && type.name === name);
    expect(struct?.size, name).toBe(size);
    const own = (struct?.members ?? []).filter((member) => !["frame", "event", "actor"].includes(member.name));
    const offsets = Object.fromEntries(own.map((member) => [member.name, member.bits_offset / 8]));
    expect(offsets, name).toEqual(fields);
  }
});
