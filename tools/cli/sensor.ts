import { statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { slotOf } from "#core/policy/kernel-slot.ts";
import { enumText } from "#core/text/enum-text.ts";
import { printable } from "#core/text/escape.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { CapabilitiesSchema, type EffectCapability } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { untilSignal } from "#lib/service/run.ts";
import { toCapabilities } from "../../agent/capabilities.ts";
import { controlGroupOf, listRuncContainers } from "../../agent/containers/runc.ts";
import { cgroupMount } from "../../agent/node-identity.ts";
import type { ContainerFrame, SensorFrame } from "../../agent/wire/frames.ts";
import { CgroupFlag, Group, ON_DEMAND } from "../../agent/wire/layout.ts";
import { Sensor, SensorError } from "../../agent/wire/sensor.ts";
import { CommandError } from "./connection.ts";
import { frameActor, frameText } from "./frame-text.ts";
import { type OutputFormat, print, printOne, toTable } from "./output.ts";

const BINARY = resolve(import.meta.dirname, "../../.cache/sensor/gabion-sensor");

const KINDS = ["exec", "connect", "listen", "socket", "dns", "file", "syscall", "contact", "redirect"] as const;
type Kind = (typeof KINDS)[number];

/** A policy that tells everything and stops nothing. */
const TELL_ALL = slotOf("ask");
const SLOT = 1;

interface TraceOptions {
  readonly runcRoot: string;
  readonly kind: readonly Kind[];
  readonly match: string;
  readonly output: OutputFormat;
}

function kindList(value: string): Kind[] {
  const kinds = value.split(",");
  const unknown = kinds.filter((kind) => !KINDS.includes(kind as Kind));
  if (unknown.length > 0) throw new InvalidArgumentError(`\`${unknown.join(",")}\`: must be of ${KINDS.join(", ")}`);
  return kinds as Kind[];
}

function isEvent(frame: SensorFrame): frame is ContainerFrame {
  return (KINDS as readonly string[]).includes(frame.kind);
}

/** Bytes and large numbers as JSON can have them. */
function toJsonValue(_: string, value: unknown): unknown {
  if (typeof value === "bigint") return String(value);
  const bytes = value as { type?: unknown; data?: number[] };
  return bytes?.type === "Buffer" && bytes.data ? Buffer.from(bytes.data).toString("latin1") : value;
}

function show(frame: ContainerFrame, output: OutputFormat): void {
  if (output === "json") {
    print(JSON.stringify({ ...frame, text: frameText(frame) }, toJsonValue));
    return;
  }
  const { pid, exe } = frameActor(frame);
  const seconds = (Number(frame.ktimeNs / 1_000n) / 1e6).toFixed(6);
  print(
    printable(
      `${seconds} ${frame.kind.padEnd(8)} ${String(pid || "-").padEnd(7)} ${exe.padEnd(16)} ${frameText(frame)}`,
    ),
  );
}

async function openSensor(scope: string, onFrame: (frame: SensorFrame) => void) {
  if (process.getuid?.() !== 0) throw new CommandError("the sensor loads kernel programs and needs root");
  const mount = cgroupMount();
  if (mount === undefined) throw new CommandError("cgroup v2 is not mounted on this machine");
  try {
    return { mount, ...(await Sensor.open({ binary: BINARY, scope, mount, holdMs: 0, onFrame, onEnd: () => {} })) };
  } catch (error) {
    if (error instanceof SensorError) throw new CommandError(error.message);
    throw error;
  }
}

/** Control group of a container of runc, by its id; one that begins with a slash is taken as it is. */
function groupOf(container: string, roots: readonly string[]): string {
  if (container.startsWith("/")) return container;
  const found = listRuncContainers(roots).find(({ id }) => id === container);
  const group = found && controlGroupOf(found.initPid ?? 0);
  if (group === undefined) {
    const where = roots.map((root) => `\`${root}\``).join(", ");
    throw new CommandError(
      `container \`${container}\` does not run under ${where}; give --runc-root, or its control group`,
    );
  }
  return group;
}

async function trace(container: string, { runcRoot, kind, match, output }: TraceOptions): Promise<void> {
  const path = groupOf(container, runcRoot.split(","));
  const wants = (frame: ContainerFrame) =>
    kind.includes(frame.kind as Kind) && (match === "" || frameText(frame).includes(match));
  const { sensor, hello, mount } = await openSensor(dirname(path), (frame) => {
    if (isEvent(frame) && wants(frame)) show(frame, output);
  });
  await using _ = sensor;
  const status = statSync(join(mount, path), { bigint: true, throwIfNoEntry: false });
  if (!status) throw new CommandError(`there is no control group \`${path}\``);
  await sensor.loadSlot(SLOT, TELL_ALL);
  const wanted: readonly (readonly [number, number])[] = [
    [Group.NETWORK, CgroupFlag.NETWORK],
    [Group.DNS, CgroupFlag.DNS],
    [Group.SYSCALL, CgroupFlag.FILES | CgroupFlag.SYSCALLS],
  ];
  const flags = wanted.reduce((sum, [group, flag]) => ((hello.groups & group) === 0 ? sum : sum | flag), 0);
  await sensor.sense(hello.groups & ON_DEMAND);
  await sensor.bind({ id: status.ino, path }, SLOT, { flags: flags | CgroupFlag.RUNNING, device: 0 });
  const signalled = untilSignal();
  process.stderr.write(`tracing ${path}; end with Ctrl-C\n`);
  await signalled;
}

const COLUMNS = [
  { title: "SECTION", of: (e: EffectCapability) => enumText(Section, e.section) },
  { title: "EFFECT", of: (e: EffectCapability) => enumText(Effect, e.effect) },
  { title: "DELIVERED", of: (e: EffectCapability) => enumText(Delivery, e.delivery) },
  { title: "HOW", of: (e: EffectCapability) => e.note },
];

async function showCapabilities(output: OutputFormat): Promise<void> {
  const { sensor, hello } = await openSensor("/", () => {});
  await sensor[Symbol.asyncDispose]();
  printOne(output, CapabilitiesSchema, toCapabilities(hello, ""), (c) => {
    const missing = Object.values(c.missing).join("; ");
    const head = `kernel ${c.kernelRelease} ${c.architecture}\nprogram groups: ${c.sensorGroups.join(", ")}`;
    return `${head}\n${missing === "" ? "" : `missing: ${missing}\n`}\n${toTable(COLUMNS, c.effects)}`;
  });
}

/** Adds `gabion sensor`: what this machine's own kernel shows and can do, without any service. */
export function addSensorCommands(program: Command): void {
  const sensor = program.command("sensor").description("this machine's sensor: raw events, and what its kernel can do");
  sensor
    .command("trace <container>")
    .description("show raw events of a container (its id, or its control group) until interrupted; stops nothing")
    .option("--runc-root <folders>", "runc's state folders, separated by commas", "/run/runc")
    .option("--kind <kinds>", `only these kinds, of ${KINDS.join(", ")}`, kindList, [...KINDS])
    .option("--match <text>", "only events whose text has this", "")
    .action(async (container: string, _: unknown, command: Command) =>
      trace(container, command.optsWithGlobals<TraceOptions>()),
    );
  sensor
    .command("capabilities")
    .description("show what this kernel can do, and what each effect will therefore be")
    .action(async (_: unknown, command: Command) =>
      showCapabilities(command.optsWithGlobals<{ output: OutputFormat }>().output),
    );
}
