import { createHash } from "node:crypto";
import { ContentState, Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Fact, ProcessFact } from "#gen/gabion/model/v1/model_pb.ts";

/** The section that a fact belongs to. */
export function sectionOfFact(fact: Fact): Section {
  switch (fact.kind.case) {
    case "process":
      return Section.PROCESS;
    case "listen":
    case "outbound":
      return Section.NETWORK;
    case "domain":
      return Section.DNS;
    case "file":
      return Section.FILESYSTEM;
    case "syscall":
      return Section.SYSCALL;
    default:
      return Section.UNSPECIFIED;
  }
}

/** Parents that an item of a model remembers. */
export const PARENTS_MAX = 16;

/** The content part of a process's identity: `image` for the image's own file, else its SHA-256, else `unknown`. */
export function contentIdentity(process: Pick<ProcessFact, "contentState" | "sha256">): string {
  if (process.contentState === ContentState.UNCHANGED) return "image";
  return process.sha256 === "" ? "unknown" : process.sha256;
}

/** A family and a name with a star in it are two things. */
function ofFamily({ isPattern }: { readonly isPattern: boolean }): string[] {
  return isPattern ? ["family"] : [];
}

function identityParts(fact: Fact): readonly (string | number | boolean)[] {
  const { kind } = fact;
  switch (kind.case) {
    case "process":
      return ["process", kind.value.path, kind.value.name, contentIdentity(kind.value)];
    case "listen":
      return ["listen", kind.value.transport, kind.value.port];
    case "outbound":
      return ["outbound", kind.value.transport, kind.value.port, kind.value.address];
    case "domain":
      return ["domain", kind.value.name, kind.value.recordType, ...ofFamily(kind.value)];
    case "file":
      return ["file", kind.value.path, kind.value.processPath, kind.value.isExecutable, ...ofFamily(kind.value)];
    case "syscall":
      return ["syscall", kind.value.name, kind.value.isCompat];
    default:
      return [];
  }
}

/** Stable identity of a fact within a model: what it says, not who started it. */
export function factId(fact: Fact): string {
  return createHash("sha256")
    .update(JSON.stringify(identityParts(fact)))
    .digest("hex")
    .slice(0, 24);
}
