import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { ContentState, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import {
  FactSchema,
  type StaticAnalysis,
  StaticAnalysisSchema,
  StaticItemSchema,
  StaticLibrarySchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { ImageFiles } from "./image-files.ts";
import { type FoundPort, type FoundProgram, Programs } from "./programs.ts";
import { Scope, type Value } from "./shell-scope.ts";
import type { ShellParser } from "./shell-tree.ts";

/** What an image is started with. */
export interface ImageConfig {
  readonly rootfs: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** As `NAME=value`. */
  readonly env: readonly string[];
  /** EXPOSE, as `80/tcp`. */
  readonly exposedPorts: readonly string[];
}

/** Where programs are looked for without a PATH, as runc does. */
const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CONFIG_PLACE = { file: "configuration", line: 0 };

function programItem({ path, name, parentPath, reason, sha256 }: FoundProgram) {
  const value = { path, name, contentState: ContentState.UNCHANGED, parentPath };
  return create(StaticItemSchema, {
    fact: create(FactSchema, { kind: { case: "process", value } }),
    reason,
    contentSha256: sha256,
  });
}

function portItem({ transport, port, reason }: FoundPort) {
  const value = { transport: transport === "tcp" ? Transport.TCP : Transport.UDP, port };
  return create(StaticItemSchema, { fact: create(FactSchema, { kind: { case: "listen", value } }), reason });
}

function addExposed(programs: Programs, exposed: readonly string[]): void {
  for (const text of exposed) {
    const [, port, transport = "tcp"] = /^(\d+)(?:\/(tcp|udp))?$/.exec(text) ?? [];
    if (port !== undefined) programs.addPort(transport as "tcp" | "udp", Number(port), `configuration: EXPOSE ${text}`);
    else programs.note(CONFIG_PLACE, `EXPOSE \`${text}\` is no port`);
  }
}

/** Finds out what an image runs and listens on, without running it. Never leaves its root file system. */
export function analyseImage(config: ImageConfig, parser: ShellParser, nowMs: number): StaticAnalysis {
  const programs = new Programs(new ImageFiles(config.rootfs), parser);
  const vars = new Map<string, Value>([["PATH", [DEFAULT_PATH]]]);
  for (const entry of config.env) {
    const at = entry.indexOf("=");
    if (at > 0) vars.set(entry.slice(0, at), [entry.slice(at + 1)]);
  }
  vars.set("PWD", [config.cwd]);
  programs.run(config.args, new Scope(vars, [[]], new Map()), CONFIG_PLACE, true);
  addExposed(programs, config.exposedPorts);
  return create(StaticAnalysisSchema, {
    analyzeTime: timestampFromMs(nowMs),
    items: [...[...programs.programs.values()].map(programItem), ...[...programs.ports.values()].map(portItem)],
    unresolved: [...programs.unresolved],
    files: [...programs.files],
    libraries: [...programs.libraries.values()].map((library) => create(StaticLibrarySchema, library)),
  });
}
