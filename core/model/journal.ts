import { create } from "@bufbuild/protobuf";
import {
  ContentState,
  type Event,
  EventSchema,
  FileOperation,
  type Process,
  ProcessSchema,
} from "#gen/gabion/event/v1/event_pb.ts";
import type { Fact, OutboundFact } from "#gen/gabion/model/v1/model_pb.ts";
import { addressText, parsePrefix } from "../matching/address.ts";

/** Ancestors that are kept: enough to tell how a program came to be started. */
const ANCESTORS_MAX = 4;
/** Arguments and bytes of each that are kept. */
const ARGS_MAX = 16;
const TEXT_MAX = 1_024;

function timeless({ path, name, uid, gid, args, contentState, sha256, invokedPath }: Process): Process {
  const kept = args.slice(0, ARGS_MAX).map((arg) => arg.slice(0, TEXT_MAX));
  return create(ProcessSchema, { path, name, uid, gid, args: kept, contentState, sha256, invokedPath });
}

/** An event as the journal keeps it: what happened and by whom, without times, process numbers and identities. */
export function journalEvent({ actor, ancestors, kind }: Event): Event {
  const few = (list: readonly Process[]) => list.slice(0, ANCESTORS_MAX).map(timeless);
  const base = { ...(actor ? { actor: timeless(actor) } : {}), ancestors: few(ancestors) };
  if (kind.case !== "exec") return create(EventSchema, { ...base, kind });
  const { process, ancestors: before, ...exec } = kind.value;
  const value = { ...exec, ancestors: few(before), ...(process ? { process: timeless(process) } : {}) };
  return create(EventSchema, { ...base, kind: { case: "exec", value } });
}

/** Equal texts mean that two events count as one in the journal. */
export function journalKey({ actor, kind }: Event): string {
  const by = actor?.path ?? "";
  const parts = ((): readonly unknown[] => {
    switch (kind.case) {
      case "exec": {
        const { path, name, sha256, contentState, uid } = kind.value.process ?? {};
        return [path, name, sha256, contentState, uid, kind.value.stream !== ""];
      }
      case "connect":
        return [by, kind.value.transport, addressText(kind.value.address), kind.value.port, kind.value.isDirect];
      case "listen":
        return [by, kind.value.transport, kind.value.isEphemeral ? 0 : kind.value.port];
      case "rawSocket":
        return [by, kind.value.family, kind.value.protocol];
      case "dnsQuery":
        return [by, kind.value.name, kind.value.recordType, kind.value.isMalformed];
      case "fileChange":
        return [by, kind.value.operation, kind.value.path, kind.value.newPath];
      case "syscallUse":
        return [kind.value.name, kind.value.isCompat];
      default:
        return [by];
    }
  })();
  return JSON.stringify([kind.case, ...parts]);
}

/**
 * An event that a learned fact stands for, so that rules can be tried on what a model knows and nobody counts any more.
 * Undefined for families, which stand for many.
 */
export function eventOfFact({ kind }: Fact): Event | undefined {
  switch (kind.case) {
    case "process": {
      const { path, name, contentState, sha256 } = kind.value;
      const isScript = name.includes("/");
      const process = { path, name, contentState, sha256, invokedPath: isScript ? name : path };
      return create(EventSchema, { actor: process, kind: { case: "exec", value: { process, isScript } } });
    }
    case "listen": {
      const { transport, port } = kind.value;
      return create(EventSchema, { kind: { case: "listen", value: { transport, port, isEphemeral: port === 0 } } });
    }
    case "outbound":
      return outboundEvent(kind.value);
    case "domain": {
      const { name, recordType, isPattern } = kind.value;
      return isPattern ? undefined : create(EventSchema, { kind: { case: "dnsQuery", value: { name, recordType } } });
    }
    case "file": {
      const { path, processPath, isExecutable, isPattern } = kind.value;
      if (isPattern) return undefined;
      // A folder is written in by some name.
      const value = { operation: FileOperation.WRITE, path: isExecutable ? path : `${path}/-`, isExecutable };
      const actor = { path: processPath, contentState: ContentState.UNCHANGED };
      return create(EventSchema, { actor, kind: { case: "fileChange", value } });
    }
    case "syscall": {
      const { name, isCompat } = kind.value;
      return create(EventSchema, { kind: { case: "syscallUse", value: { name, isCompat } } });
    }
    default:
      return undefined;
  }
}

function outboundEvent({ transport, port, address }: OutboundFact): Event | undefined {
  if (port === 0 || address.includes("/")) return undefined;
  const bytes = parsePrefix(address)?.bytes;
  // A port of the Internet is of no address in particular, which policy takes 0.0.0.0 for.
  const value = { transport, port, address: bytes ?? new Uint8Array(4), isInternet: bytes === undefined };
  return create(EventSchema, { kind: { case: "connect", value } });
}
