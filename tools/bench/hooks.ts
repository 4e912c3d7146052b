/** What each kernel program of the sensor takes for one event: acts that reach all of them, a thousand times each. */
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { HOST, HOST6, RESOLVER, startLoaded } from "./load.ts";
import { costsOf, printCosts } from "./program-costs.ts";

const COUNT = "1000";
/** Containers that come and go, for what looks at control groups. */
const CONTAINERS = 10;
const ALLOWED = {
  process: { effect: Effect.ALERT, allowed: [{ process: "/*" }] },
  network: {
    effect: Effect.ALERT,
    allowed: { outboundAddresses: ["0.0.0.0/0", "::/0"], listeningPorts: [{ first: 1, last: 65_535 }] },
    detectors: { raw_socket: {}, port_scan: {} },
  },
  dns: { effect: Effect.ALERT, allowed: ["*.test"] },
  filesystem: { effect: Effect.ALERT, allowed: ["/*"] },
  syscall: { effect: Effect.ALERT },
};

/** Arguments of `callprobe timed`. */
const ACTS: readonly (readonly string[])[] = [
  ["exec", "/opt/nothing", "0"],
  ["connect", HOST, "443"],
  ["connect", HOST6, "443"],
  ["udp", HOST, "443"],
  ["udp", HOST6, "443"],
  ["bind", HOST, "8080"],
  ["bind", HOST6, "8080"],
  // Of the range that the kernel chooses from: who chose it is asked before it is bound.
  ["bind-udp", HOST, "41000"],
  ["bind-udp", HOST6, "41000"],
  ["raw", HOST, "0"],
  ["send", RESOLVER, "53"],
  ["open", "/etc/denied", "0"],
];

await using rig = await AgentRig.open(`hooks-${process.pid}`, LearningState.ACTIVE);
await rig.rules(ALLOWED);
const web = await startLoaded(rig.sandbox, "web");
await rig.watched("web");
const costs = await costsOf(async () => {
  for (const args of ACTS) await web.exec("/opt/callprobe", "timed", ...args, COUNT);
  // Nobody listens there: an error comes back, by IPv4 and IPv6.
  for (const network of ["203.0.113", "2001:db8::"])
    await web.exec("/opt/netprobe", "scan-udp", network, "5", "5", "1", "1000");
  for (let i = 0; i < CONTAINERS; i += 1) {
    const other = rig.sandbox.start(`other${i}`, { args: ["/bin/sleep", "0.2"], programs: ["/bin/sleep"] });
    await other.ended;
  }
  await until("them to have gone", 20_000, () => (rig.agent.containers.all().length === 1 ? true : undefined));
});
printCosts(
  `kernel programs, active, all sections, known-good acts (${COUNT} of each kind, ${CONTAINERS} containers)`,
  costs,
);
