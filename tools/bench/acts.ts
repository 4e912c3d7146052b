/**
 * How long acts take that policy refuses or kills for, for who acts, and from the act to the end of its container under block.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { type Act, bringIntoForce, effectActs, isOf, perform, startActing } from "../sandbox/effect-acts.ts";
import { testProgram } from "../sandbox/programs.ts";
import { type SandboxContainer, unifiedMount } from "../sandbox/runc.ts";
import { HOST, HOST6, RESOLVER, startLoaded } from "./load.ts";
import { percentile, printTable } from "./statistics.ts";

const SAMPLES = Number(process.env["SAMPLES"] ?? 7);
const { ACTIVE, LEARNING } = LearningState;
const effect = Effect.PREVENT;
const port4444 = [{ first: 4444, last: 4444 }];
const RAW = { network: { effect, detectors: { raw_socket: {} } } };
const connecting = { network: { effect, denied: { outboundPorts: port4444 } } };
const binding = { network: { effect, denied: { listeningPorts: port4444 } } };
const lookingUp = { dns: { effect, denied: ["bad.test"] } };

interface Refused {
  readonly name: string;
  readonly rules: object;
  /** Arguments of `callprobe timed`. */
  readonly args: readonly string[];
  /** Denials act in every state, the rest once the model is active. */
  readonly state?: LearningState;
}

/** What goes through in about the same time as it is refused. */
const REFUSED: readonly Refused[] = [
  {
    name: "exec, refused by its path",
    rules: { process: { effect, denied: [{ process: "/opt/denied" }] } },
    args: ["exec", "/opt/denied", "0"],
  },
  {
    name: "exec, killed by its name",
    rules: { process: { effect, denied: [{ process: "denied" }] } },
    args: ["exec", "/opt/denied", "0"],
  },
  { name: "connect", rules: connecting, args: ["connect", HOST, "4444"] },
  { name: "connect, IPv6", rules: connecting, args: ["connect", HOST6, "4444"] },
  { name: "datagram", rules: connecting, args: ["udp", HOST, "4444"] },
  { name: "bind", rules: binding, args: ["bind", HOST, "4444"] },
  { name: "bind, UDP", rules: binding, args: ["bind-udp", HOST, "4444"] },
  {
    name: "listen without bind, killed",
    rules: { network: { effect } },
    args: ["listen", HOST, "0"],
    state: ACTIVE,
  },
  { name: "raw socket", rules: RAW, args: ["raw", HOST, "0"], state: ACTIVE },
  { name: "echo socket", rules: RAW, args: ["ping", HOST, "0"], state: ACTIVE },
  { name: "packet socket, killed", rules: RAW, args: ["packet", HOST, "0"], state: ACTIVE },
  { name: "look-up", rules: lookingUp, args: ["send", RESOLVER, "53"] },
  { name: "look-up over TCP", rules: lookingUp, args: ["send-tcp", RESOLVER, "53"] },
  {
    name: "open for writing",
    rules: { filesystem: { effect, denied: ["/etc/denied"] } },
    args: ["open", "/etc/denied", "0"],
  },
];

const sha256 = createHash("sha256").update(testProgram("netprobe")).digest("hex");
const denying = (entry: object) => ({ process: { effect, denied: [entry] } });
const waiting = ["exec-waiting", "/opt/waiting", "0"];

/** What the agent kills for: a program that would run on is gone so long after it was begun. */
const KILLED_LATER: readonly Refused[] = [
  { name: "exec, by its content", rules: denying({ process: "/opt/waiting", sha256 }), args: waiting },
  {
    name: "exec, by who started it",
    rules: denying({ process: "/opt/waiting", parents: ["/opt/callprobe"] }),
    args: waiting,
  },
  { name: "exec, by a pattern", rules: denying({ process: "/opt/*ing" }), args: waiting },
  {
    name: "exec of an attack tool",
    rules: { process: { effect, detectors: { lateral_movement: {} } } },
    args: ["exec-waiting", "/opt/nmap", "0"],
  },
];

interface Times {
  readonly p50: number;
  readonly p99: number;
  readonly refused: number;
}

async function time(web: SandboxContainer, args: readonly string[], count: number): Promise<Times> {
  const { output } = await web.exec("/opt/callprobe", "timed", ...args, String(count));
  return JSON.parse(output) as Times;
}

const inMicroseconds = (ns: number) => (ns / 1_000).toFixed(1);

async function refusals(rig: AgentRig, web: SandboxContainer): Promise<void> {
  const count = 1_000;
  const rows: string[][] = [["act", "through p50", "p99", "refused p50", "p99", "refused"]];
  for (const { name, rules, args, state = LEARNING } of REFUSED) {
    await rig.rules({ scope: { containers: ["none"] } });
    const through = await time(web, args, count);
    await rig.activate(state, []);
    await rig.rules({ process: { effect: Effect.DISABLE }, ...rules });
    const refused = await time(web, args, count);
    const times = [through.p50, through.p99, refused.p50, refused.p99].map(inMicroseconds);
    rows.push([name, ...times, `${refused.refused} of ${count}`]);
  }
  printTable(`prevent: how long the act takes for who acts, µs (${count} each)`, rows);
}

async function lateKills(rig: AgentRig, web: SandboxContainer): Promise<void> {
  const count = 100;
  const rows: string[][] = [["act", "p50", "p99", "killed"]];
  await rig.activate(LEARNING, []);
  for (const { name, rules, args } of KILLED_LATER) {
    await rig.rules(rules);
    const { p50, p99, refused } = await time(web, args, count);
    rows.push([name, ...[p50, p99].map((ns) => (ns / 1e6).toFixed(1)), `${refused} of ${count}`]);
  }
  printTable(`prevent by the agent: from the start of a program to its end, ms (${count} each)`, rows);
}

function isPopulated(group: string): boolean {
  try {
    return readFileSync(join(unifiedMount(), group, "cgroup.events"), "utf8").includes("populated 1");
  } catch {
    return false;
  }
}

/** From the kernel's timestamp of the act until the container's control group is empty, in ms. */
async function actToEnd(rig: AgentRig, act: Act, id: string): Promise<number> {
  await rig.rules({ scope: { containers: ["none"] } });
  const web = await startActing(rig, id);
  const { path } = (await rig.watched(id)).cgroup;
  await bringIntoForce(rig, act, "BLOCK");
  const from = rig.audits.length;
  void perform(web, act, "BLOCK");
  // Polled without a pause: what is measured is shorter than one.
  const deadline = performance.now() + 10_000;
  while (isPopulated(path) && performance.now() < deadline) await new Promise((resolve) => setImmediate(resolve));
  if (isPopulated(path)) throw new Error(`${act.name} did not end the container`);
  const end = process.hrtime.bigint();
  // The audit says what came of the stop, for which the runtime has ten seconds.
  const audit = await until("its audit", 20_000, () => rig.audits.slice(from).find((each) => isOf(act, each)));
  return Number(end - (audit.event?.ktimeNs ?? end)) / 1e6;
}

async function blocks(): Promise<void> {
  const rows: string[][] = [["act", "p50", "max"]];
  await using rig = await AgentRig.open(`block-${process.pid}`, LEARNING);
  let count = 0;
  for (const act of effectActs().filter(({ cells }) => cells.BLOCK?.ends)) {
    const times: number[] = [];
    while (times.length < SAMPLES) {
      count += 1;
      times.push(await actToEnd(rig, act, `web${count}`));
    }
    rows.push([act.name, percentile(times, 0.5).toFixed(1), Math.max(...times).toFixed(1)]);
  }
  printTable(
    `block: from the act, which has failed or is over, to the last process of the container, ms (${SAMPLES} each)`,
    rows,
  );
}

async function prevents(): Promise<void> {
  await using rig = await AgentRig.open(`refuse-${process.pid}`, ACTIVE);
  await rig.rules({ scope: { containers: ["none"] } });
  const web = await startLoaded(rig.sandbox, "web");
  await rig.watched("web");
  await web.allowEchoSockets();
  await refusals(rig, web);
  await lateKills(rig, web);
}

await prevents();
await blocks();
