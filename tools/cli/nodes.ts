import type { Command } from "commander";
import { enumText } from "#core/text/enum-text.ts";
import { VerdictAction, VerdictSchema } from "#gen/gabion/audit/v1/verdict_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Node, NodeSchema } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type Container, ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { CommandError, type Connection } from "./connection.ts";
import { type Column, printOne, printRows, timeText } from "./output.ts";
import { withConnection } from "./shared.ts";

const NODE_COLUMNS: readonly Column<Node>[] = [
  { title: "NODE", of: (n) => n.nodeId },
  { title: "STATE", of: (n) => (n.isConnected ? "connected" : "away") },
  { title: "SENSOR", of: (n) => (n.hello?.hasSensor ? (n.hello.capabilities?.sensorGroups.join(",") ?? "") : "none") },
  { title: "KERNEL", of: (n) => n.hello?.capabilities?.kernelRelease ?? "" },
  { title: "CONTAINERS", of: (n) => String(n.containerCount) },
  { title: "RULES", of: (n) => String(n.hello?.enforced?.rulesetRevision ?? 0n) },
  { title: "LOST", of: (n) => String(n.lostEventCount) },
  { title: "SEEN", of: (n) => timeText(n.lastSeenTime) },
];

const CONTAINER_COLUMNS: readonly Column<Container>[] = [
  { title: "CONTAINER", of: (c) => c.containerId },
  { title: "NAME", of: (c) => c.name },
  { title: "NODE", of: (c) => c.nodeId },
  { title: "IMAGE", of: (c) => c.image?.name || (c.image?.digest.slice(0, 19) ?? ""), maxWidth: 40 },
  { title: "MODEL", of: (c) => c.modelKey },
  { title: "STARTED", of: (c) => timeText(c.startTime) },
  { title: "SEEN", of: (c) => (c.partlySeen ? "in part" : "from the start") },
];

function nodeText(node: Node): string {
  const effects = (node.hello?.capabilities?.effects ?? []).map(
    (e) =>
      `  ${enumText(Section, e.section)} ${enumText(Effect, e.effect)}: ${enumText(Delivery, e.delivery)}${e.note ? ` (${e.note})` : ""}`,
  );
  const head = `${node.nodeId}: ${node.isConnected ? "connected" : "away"}, agent ${node.hello?.agentVersion ?? ""}, kernel ${node.hello?.capabilities?.kernelRelease ?? ""}`;
  return [head, "effects as delivered here:", ...effects].join("\n");
}

async function allContainers(fleet: Connection["fleet"], nodeId: string): Promise<Container[]> {
  const all: Container[] = [];
  for (let pageToken = ""; ; ) {
    const { containers, nextPageToken } = await fleet.listContainers({ nodeId, pageSize: 1000, pageToken });
    all.push(...containers);
    if (nextPageToken === "") return all;
    pageToken = nextPageToken;
  }
}

/** Adds `gabion nodes` and `gabion containers`. */
export function addNodeCommands(program: Command): void {
  const nodes = program.command("nodes").description("nodes and what they can do");
  nodes
    .command("list", { isDefault: true })
    .description("list nodes")
    .action(
      withConnection(async ({ fleet }, { output }) => {
        printRows(output, NodeSchema, (await fleet.listNodes({ pageSize: 1000 })).nodes, NODE_COLUMNS);
      }),
    );
  nodes
    .command("get <node>")
    .description("show a node with how it delivers each effect")
    .action(
      withConnection(async ({ fleet }, { output }, nodeId: string) => {
        const { node } = await fleet.getNode({ nodeId });
        if (node) printOne(output, NodeSchema, node, nodeText);
      }),
    );
  const containers = program.command("containers").description("containers that run now");
  containers
    .command("list", { isDefault: true })
    .description("list running containers")
    .action(
      withConnection(async ({ fleet }, { output }) => {
        printRows(
          output,
          ContainerSchema,
          (await fleet.listContainers({ pageSize: 1000 })).containers,
          CONTAINER_COLUMNS,
        );
      }),
    );
  containers
    .command("stop <container>")
    .description("order the container's node to stop it")
    .requiredOption("--reason <text>", "why; it stands in the audit")
    .option("--node <id>", "its node, where several run a container of this id", "")
    .action(
      withConnection(async ({ fleet, audits }, shared, containerId: string) => {
        const { reason, node } = shared as unknown as { reason: string; node: string };
        const found = (await allContainers(fleet, node)).filter((c) => c.containerId === containerId);
        if (found.length > 1)
          throw new CommandError(`${found.length} nodes run a container \`${containerId}\`: name one with --node`);
        const container = found[0];
        if (!container) throw new CommandError(`container \`${containerId}\` does not run; see \`gabion containers\``);
        const action = VerdictAction.STOP_CONTAINER;
        const { verdict } = await audits.issueVerdict({
          verdict: { nodeId: container.nodeId, containerId, action, reason },
        });
        if (verdict)
          printOne(
            shared.output,
            VerdictSchema,
            verdict,
            (v) => `verdict ${v.verdictId} issued to ${v.nodeId}; its result will be an audit`,
          );
      }),
    );
}
