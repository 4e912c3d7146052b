import type { Fact } from "#gen/gabion/model/v1/model_pb.ts";
import { recordTypeText } from "../policy/dns-policy.ts";
import { portText } from "../policy/network-event.ts";

type OtherKind = Exclude<Fact["kind"], { case: "process" } | { case: undefined }>;

function otherFactText(kind: OtherKind): string {
  switch (kind.case) {
    case "listen":
      return `listens on ${portText(kind.value.transport, kind.value.port)}`;
    case "outbound":
      return `${portText(kind.value.transport, kind.value.port)} of ${kind.value.address || "the Internet"}`;
    case "domain":
      return `${kind.value.name} (${recordTypeText(kind.value.recordType)})`;
    case "file":
      return `${kind.value.path}${kind.value.isExecutable ? " (executable)" : ""} by ${kind.value.processPath}`;
    case "syscall":
      return `${kind.value.name}${kind.value.isCompat ? " (32-bit)" : ""}`;
  }
}

/** An item as one line. */
export function factText(fact: Fact | undefined): string {
  const kind = fact?.kind;
  if (kind?.case !== "process") return kind?.case ? otherFactText(kind) : "";
  const { path, name, sha256 } = kind.value;
  const as = path.endsWith(`/${name}`) ? "" : ` as ${name}`;
  return `${path}${as}${sha256 === "" ? "" : ` sha256:${sha256.slice(0, 12)}…`}`;
}
