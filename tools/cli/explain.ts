import { isIP } from "node:net";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { Command } from "commander";
import { mappedAddress, parsePrefix } from "#core/matching/address.ts";
import { syscallNumber } from "#core/syscall/names.ts";
import { enumText } from "#core/text/enum-text.ts";
import { eventText } from "#core/text/event-text.ts";
import {
  ContentState,
  type Event,
  EventSchema,
  FileOperation,
  Section,
  Transport,
} from "#gen/gabion/event/v1/event_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type ExplainEventResponse, ExplainEventResponseSchema } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { CommandError } from "./connection.ts";
import { stateText } from "./models.ts";
import { printOne } from "./output.ts";
import { withConnection } from "./shared.ts";

interface What {
  readonly exec?: string;
  readonly connect?: string;
  readonly listen?: string;
  readonly dns?: string;
  readonly write?: string;
  readonly syscall?: string;
  readonly by?: string;
  readonly foreign?: boolean;
}

/** Ranges that are not the Internet: RFC 1918, loopback, link-local and their kin of IPv6. */
const INTERNAL = /^(10\.|127\.|169\.254\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|::1$|f[cd]|fe[89ab])/i;

function portOf(text: string, whole: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port > 65_535) throw new CommandError(`\`${whole}\` must end with a port from 0 to 65535`);
  return port;
}

function endpoint(text: string): { readonly address: Uint8Array; readonly port: number; readonly isInternet: boolean } {
  const [, host = "", port = ""] = /^\[?([^\]]*?)\]?:(\d+)$/.exec(text) ?? [];
  const bytes = isIP(host) === 0 ? undefined : parsePrefix(host)?.bytes;
  if (!bytes)
    throw new CommandError(`\`${text}\` must be an address and a port, for example 192.0.2.1:443 or [2001:db8::1]:443`);
  const address = isIP(host) === 4 ? mappedAddress(bytes).slice(12) : bytes;
  return { address, port: portOf(port, text), isInternet: !INTERNAL.test(host) };
}

type EventInit = MessageInitShape<typeof EventSchema>;

function kindOf({ exec, connect, listen, dns, write, syscall, foreign }: What): EventInit["kind"] {
  if (exec !== undefined) {
    const contentState = foreign ? ContentState.FOREIGN : ContentState.UNCHANGED;
    const name = exec.slice(exec.lastIndexOf("/") + 1);
    return { case: "exec", value: { process: { path: exec, name, invokedPath: exec, contentState } } };
  }
  if (connect !== undefined) return { case: "connect", value: { transport: Transport.TCP, ...endpoint(connect) } };
  if (listen !== undefined)
    return { case: "listen", value: { transport: Transport.TCP, port: portOf(listen, listen) } };
  if (dns !== undefined)
    return { case: "dnsQuery", value: { name: dns.toLowerCase().replace(/\.$/, ""), recordType: 1 } };
  if (write !== undefined) return { case: "fileChange", value: { operation: FileOperation.WRITE, path: write } };
  const number = syscallNumber(syscall ?? "", false);
  if (number === undefined) throw new CommandError(`\`${syscall}\` is no system call`);
  return { case: "syscallUse", value: { name: syscall ?? "", number } };
}

function eventOf(what: What): Event {
  const given = [what.exec, what.connect, what.listen, what.dns, what.write, what.syscall].filter(
    (each) => each !== undefined,
  );
  if (given.length !== 1)
    throw new CommandError("name one of --exec, --connect, --listen, --dns, --write and --syscall");
  const kind = kindOf(what);
  const path = what.by ?? what.exec ?? "";
  const actor = path === "" ? {} : { actor: { path, name: path.slice(path.lastIndexOf("/") + 1) } };
  return create(EventSchema, { ...actor, ...(kind ? { kind } : {}) });
}

function explanationText(answer: ExplainEventResponse, event: Event | undefined): string {
  const { container, rule, passedOver, decision, section, completeness, modelItemCount } = answer;
  const { matched = "", message = "", passedOver: before = [], nearest = [] } = decision?.explanation ?? {};
  const expected =
    completeness?.expectedNewPerDay !== undefined
      ? `, ${(completeness.expectedNewPerDay ?? 0).toFixed(2)} new behaviours a day are to be expected (up to ${(completeness.expectedNewPerDayUpper ?? 0).toFixed(2)})`
      : "";
  const delivery =
    answer.delivery === Delivery.UNSPECIFIED
      ? ""
      : ` (${enumText(Delivery, answer.delivery).replaceAll("_", " ")}${answer.deliveryNote ? `: ${answer.deliveryNote}` : ""})`;
  return [
    `${event ? eventText(event) : "the event"} in container \`${container?.name ?? ""}\``,
    `  decision   ${enumText(Outcome, decision?.outcome ?? 0)}: ${message}`,
    `  effect     ${decision?.isAudited ? `${enumText(Effect, decision.effectApplied)}${delivery}` : "nothing is done"}${decision?.isLearned ? "; learned" : ""}`,
    `  decided by ${matched || "no entry or item"}`,
    `  rule       ${rule ? `\`${rule.name}\` (revision ${rule.revision})` : "none applies"}`,
    ...passedOver.map(({ name, reason }) => `             not \`${name}\`: ${reason}`),
    ...before.map((each) => `  tried      ${each}`),
    `  model      ${container?.modelKey ?? ""}: ${enumText(Section, section)} ${stateText(answer.modelState)}, ${modelItemCount} items${expected}`,
    ...nearest.map((each) => `  nearest    ${each.item} (${each.difference})`),
  ].join("\n");
}

/** Adds `gabion explain`. */
export function addExplainCommand(program: Command): void {
  program
    .command("explain [audit]")
    .description("say what is decided on an audit's event, or on one that might happen, and why")
    .option("--container <container>", "running container, by name or identity")
    .option("--exec <path>", "a program is started")
    .option("--foreign", "the program is not of the image")
    .option("--connect <address:port>", "a TCP connection is made")
    .option("--listen <port>", "a TCP port is listened on")
    .option("--dns <name>", "a name is looked up")
    .option("--write <path>", "a file is opened for writing")
    .option("--syscall <name>", "a system call is used for the first time")
    .option("--by <path>", "program that does it")
    .action(
      withConnection(async ({ rules, audits }, shared, auditId: string | undefined) => {
        const options = shared as unknown as What & { container?: string };
        if (auditId !== undefined) {
          const { audit } = await audits.getAudit({ auditId });
          if (!audit?.event || !audit.container) throw new CommandError("this audit is about no event of a container");
          const { event, container } = audit;
          const answer = await rules.explainEvent({ containerId: container.containerId, container, event });
          printOne(shared.output, ExplainEventResponseSchema, answer, (each) => explanationText(each, event));
          return;
        }
        if (options.container === undefined) throw new CommandError("name an audit, or a container with --container");
        const event = eventOf(options);
        const answer = await rules.explainEvent({ containerId: options.container, event });
        printOne(shared.output, ExplainEventResponseSchema, answer, (each) => explanationText(each, event));
      }),
    );
}
