import { ContentState, type ProcessExec } from "#gen/gabion/event/v1/event_pb.ts";

/** What policy looks at in an exec. Texts are in escaped form. */
export interface ProcessEvent {
  /** Real path of the binary, symbolic links resolved; the interpreter for scripts. */
  readonly path: string;
  /** Base name as invoked; for a script its path. */
  readonly name: string;
  /** Path as the caller gave it; a script's own path. */
  readonly invokedPath: string;
  readonly contentState: ContentState;
  /** SHA-256 of content that is not the image's; empty where it could not be read. */
  readonly sha256: string;
  /** Real paths of the ancestors, nearest first. */
  readonly parents: readonly string[];
  readonly isScript: boolean;
  readonly args: readonly string[];
  /** Set where standard input or output is a connection: which, for a person. Empty otherwise. */
  readonly stream: string;
  /** True if the file gives another user's rights. */
  readonly isSetuid: boolean;
}

/** What most events have nothing of. */
export const NOTHING_SPECIAL = { args: [] as readonly string[], stream: "", isSetuid: false } as const;

/** The part after the last slash. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** The policy view of an exec message. */
export function toProcessEvent(exec: ProcessExec): ProcessEvent {
  const process = exec.process;
  return {
    path: process?.path ?? "",
    name: process?.name ?? "",
    // A script may be called by a relative name: lists are matched with its full path.
    invokedPath: (exec.isScript ? process?.name : process?.invokedPath) ?? "",
    contentState: process?.contentState ?? ContentState.UNKNOWN,
    sha256: process?.sha256 ?? "",
    parents: exec.ancestors.map((ancestor) => ancestor.path),
    isScript: exec.isScript,
    args: process?.args ?? [],
    stream: exec.stream,
    isSetuid: exec.isSetuid,
  };
}
