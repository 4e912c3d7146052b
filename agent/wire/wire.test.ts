import fc from "fast-check";
import { expect, test } from "vitest";
import { slotOf } from "#core/policy/kernel-slot.ts";
import { decodeFrame, FrameReader } from "./decode.ts";
import { contentNumber, encodeControl, encodeSlot } from "./encode.ts";
import type { ExecFrame } from "./frames.ts";
import { FrameType, LAYOUT, MAX_FRAME_BYTES, WIRE_VERSION } from "./layout.ts";

function execFrame(path: string, args: readonly string[]): Buffer {
  const argv = Buffer.from(args.map((a) => `${a}\0`).join(""));
  const at = LAYOUT.exec_event.fields;
  const frame = Buffer.alloc((at.argv + argv.length + 7) & ~7);
  frame.writeUInt32LE(frame.length, 0);
  frame.writeUInt16LE(FrameType.EXEC, 4);
  frame.writeUInt8(WIRE_VERSION, 6);
  frame.writeBigUInt64LE(77n, LAYOUT.gabion_event.fields.cgroup_id);
  frame.writeUInt32LE(4242, at.pid);
  frame.writeUInt16LE(path.length, at.path_length);
  frame.writeUInt16LE(argv.length, at.argv_length);
  frame.write(path, at.path, "latin1");
  argv.copy(frame, at.argv);
  return frame;
}

test("an exec frame is decoded", () => {
  const frame = decodeFrame(execFrame("/bin/ls", ["ls", "-la", ""])) as ExecFrame;
  expect(frame).toMatchObject({ kind: "exec", pid: 4242, cgroupId: 77n });
  expect(frame.args.map(String)).toEqual(["ls", "-la", ""]);
  expect(String(frame.path)).toBe("/bin/ls");
});

test("no bytes make the decoder throw", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 4_000 }), fc.constantFrom(...Object.values(FrameType)), (bytes, type) => {
      const frame = Buffer.concat([Buffer.alloc(8), Buffer.from(bytes)]);
      frame.writeUInt16LE(type, 4);
      expect(decodeFrame(frame)).toHaveProperty("kind");
    }),
    { numRuns: 3_000 },
  );
});

test("frames are found however the stream is cut", () => {
  const stream = Buffer.concat([execFrame("/a", ["x"]), execFrame("/b", []), execFrame("/c", ["y", "z"])]);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 40 }), (sizes) => {
      const reader = new FrameReader();
      const paths: string[] = [];
      let at = 0;
      for (let i = 0; at < stream.length; i += 1) {
        const size = sizes[i % sizes.length] as number;
        for (const frame of reader.read(stream.subarray(at, at + size))) paths.push(String((frame as ExecFrame).path));
        at += size;
      }
      expect(paths).toEqual(["/a", "/b", "/c"]);
    }),
  );
});

test("a frame is refused by the length it declares, before it is buffered", () => {
  const frame = execFrame("/a", []);
  frame.writeUInt32LE(MAX_FRAME_BYTES + 8, 0);
  expect(new FrameReader().read(frame)).toMatchObject([{ kind: "fault" }]);
  frame.writeUInt32LE(0, 0);
  expect(new FrameReader().read(frame)).toMatchObject([{ kind: "fault" }]);
});

test("another wire version is refused", () => {
  const frame = execFrame("/a", []);
  frame.writeUInt8(WIRE_VERSION + 1, 6);
  expect(new FrameReader().read(frame)).toMatchObject([
    { kind: "fault", message: `wire version ${WIRE_VERSION + 1} is not ${WIRE_VERSION}` },
  ]);
});

test("a frame that names more text than it has is a fault", () => {
  const frame = execFrame("/a", []);
  frame.writeUInt16LE(60_000, LAYOUT.exec_event.fields.argv_length);
  expect(decodeFrame(frame)).toMatchObject({ kind: "fault" });
});

test("a large slot is sent in several frames, each within the limit and each answered", () => {
  const entries = Array.from(
    { length: 20_000 },
    (_, i) => ({ kind: "path", text: `/opt/${"d".repeat(80)}/${i}`, action: "prevent" }) as const,
  );
  let request = 0;
  const frames = encodeSlot(3, { ...slotOf("ask"), entries }, () => ++request);
  expect(frames.length).toBeGreaterThan(1);
  expect(frames.map(([number]) => number)).toEqual(frames.map((_, i) => i + 1));
  for (const [, frame] of frames) {
    expect(frame.length).toBeLessThanOrEqual(MAX_FRAME_BYTES);
    expect(frame.length % 8).toBe(0);
    expect(frame.readUInt32LE(0)).toBe(frame.length);
  }
});

test("content is numbered: the image's own, or the start of a hash", () => {
  expect(contentNumber("image")).toBe(1n);
  expect(contentNumber(`${"0".repeat(15)}2${"f".repeat(48)}`)).toBe(2n);
});

test("a control frame carries its path", () => {
  const frame = encodeControl(FrameType.KILL, 9, { cgroupId: 5n, path: "/x/y" });
  expect(frame.subarray(LAYOUT.control_frame.size, LAYOUT.control_frame.size + 4).toString()).toBe("/x/y");
});
