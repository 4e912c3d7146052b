/**
 * What an agent sends while many replicas of one image learn together: each fact goes once for all of them, then only counts
 * for each unit. Beside it what the events would have been, one by one.
 */
import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import {
  ContainerPresenceSchema,
  JournalNoteSchema,
  LearningState,
  ObservedFactSchema,
  PresenceSpanSchema,
  SeenUnitSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { printTable } from "./statistics.ts";

const REPLICAS = Number(process.env["REPLICAS"] ?? 100);
const SECONDS = 20;
const ALERT = { effect: Effect.ALERT };
const SERVER = {
  args: ["/bin/sh", "-c", "while true; do date > /tmp/now; sleep 1; done"],
  programs: [],
  applets: ["/bin/sh", "/bin/date", "/bin/sleep"],
  // One image, so one model: by content each container would be the same anyway.
  annotations: { "org.opencontainers.image.digest": `sha256:${"d".repeat(64)}` },
};

await using rig = await AgentRig.open(`replicas-${process.pid}`, LearningState.LEARNING, { holdMs: 20_000 });
await rig.rules({ process: ALERT, network: ALERT, dns: ALERT, filesystem: ALERT, syscall: ALERT });
for (let i = 0; i < REPLICAS; i += 1) {
  // The model as model-service would give it to the next one: with what the others showed.
  rig.changeModel(LearningState.LEARNING);
  rig.sandbox.start(`r${i}`, SERVER);
  // Some at a time: runc itself takes most of a core for each.
  await until("room for the next", 60_000, () => (rig.agent.containers.all().length >= i - 3 ? true : undefined));
}
await until("all replicas to be watched", 120_000, () =>
  rig.agent.containers.all().filter(({ use }) => use).length === REPLICAS ? true : undefined,
);
await new Promise((resolve) => setTimeout(resolve, SECONDS * 1_000));

const size = <D extends DescMessage>(schema: D, message: MessageShape<D>) => toBinary(schema, message).length;
const total = new Map<string, { count: number; bytes: number }>();
for (const { kind, value } of rig.observations) {
  const bytes =
    kind === "fact"
      ? size(ObservedFactSchema, value)
      : kind === "seen"
        ? size(SeenUnitSchema, value)
        : kind === "span"
          ? size(PresenceSpanSchema, value)
          : kind === "presence"
            ? size(ContainerPresenceSchema, value)
            : kind === "journal"
              ? size(JournalNoteSchema, value)
              : 0;
  const before = total.get(kind) ?? { count: 0, bytes: 0 };
  total.set(kind, { count: before.count + 1, bytes: before.bytes + bytes });
}
const seen = Number((rig.agent.stats?.rows ?? []).reduce((sum, row) => sum + row.seen, 0n));
const facts = total.get("fact") ?? { count: 0, bytes: 0 };
const perFact = facts.bytes / Math.max(1, facts.count);
const row = (name: string, kind: string) => {
  const { count, bytes } = total.get(kind) ?? { count: 0, bytes: 0 };
  return [name, String(count), (bytes / 1_024).toFixed(1)];
};
printTable(
  `what an agent sends while ${REPLICAS} replicas of one image learn, in the first ${SECONDS} s and their start`,
  [
    ["", "messages", "KiB"],
    row("facts, each once", "fact"),
    row("units: what was seen in each container, with counts", "seen"),
    row("spans of time that were watched, two a second here", "span"),
    row("containers", "presence"),
    row("what happened, for the journal", "journal"),
    ["the events one by one, as facts would be", String(seen), ((seen * perFact) / 1_024).toFixed(1)],
  ],
);
