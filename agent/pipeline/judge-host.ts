import { uptime } from "node:os";
import { create } from "@bufbuild/protobuf";
import { redirectedProcess } from "#core/policy/decide.ts";
import { evaluateFile, fileFacts, heldFileFact, isLibrary } from "#core/policy/file-policy.ts";
import { baseName, NOTHING_SPECIAL } from "#core/policy/process-event.ts";
import { evaluateProcess, evaluateRedirect } from "#core/policy/process-policy.ts";
import { evaluateSyscall, syscallFact } from "#core/policy/syscall-policy.ts";
import { syscallName } from "#core/syscall/names.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { ContentState, FileOperation, ProcessSchema, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Decision, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import { isExecutableAt, isFolderAt, isTyped, pathsOfChange, statusAt } from "../content/file-change.ts";
import type { Place } from "../content/mounts.ts";
import { isRefusedByWatch } from "../enforce/protect.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import type { FileFrame, RedirectFrame, RefusedFrame, SyscallFrame } from "../wire/frames.ts";
import { FileFlag, SyscallFlag } from "../wire/layout.ts";
import { type EventMaker, type Judged, NOTHING } from "./judged.ts";

/** True where a file that can be run, or a library, was changed, put somewhere or made into one. */
async function makesExecutable(
  maker: EventMaker,
  where: Place,
  frame: FileFrame,
  { path, newPath }: { readonly path: string; readonly newPath: string },
): Promise<boolean> {
  // Another owner makes nothing executable.
  if ((frame.flags & FileFlag.OWNER) !== 0) return false;
  const isMode = frame.operation === FileOperation.CHANGE_MODE && isTyped(frame);
  // A mode that lets a file be run lets a folder be entered.
  const isFolder = isMode && (await maker.roots.look(where, (root) => isFolderAt(root, path)));
  if ((frame.flags & FileFlag.EXECUTABLE) !== 0 && !isFolder) return true;
  const mayBe = newPath === "" && (frame.flags & FileFlag.FOLLOWED) !== 0 ? path : newPath;
  return isLibrary(mayBe) || (mayBe !== "" && (await maker.roots.look(where, (root) => isExecutableAt(root, mayBe))));
}

export async function judgeFile(
  maker: EventMaker,
  container: WatchedContainer,
  frame: FileFrame,
  use: SlotUse,
): Promise<Judged[]> {
  const { cgroup, identified } = container;
  const { rootfs } = identified.bundle;
  const isRooted = (frame.flags & FileFlag.ROOTED) !== 0;
  const where = { cgroup, rootfs, pid: frame.actor.pid, isRooted };
  const resolve = (root: string) => pathsOfChange(frame, root);
  const { path, newPath } = await (isTyped(frame) ? maker.roots.look(where, resolve) : resolve(rootfs));
  const operation = frame.operation as FileOperation;
  const isIoUring = (frame.flags & FileFlag.RING) !== 0;
  const isFollowed = (frame.flags & FileFlag.FOLLOWED) !== 0;
  // It was only asked for: what the watch refused has not happened, and is told as refused.
  if (isIoUring && isFollowed && container.protection !== "none") {
    const isRefused = (root: string) => isRefusedByWatch(identified, use.refused, root, path);
    if (await maker.roots.look(where, isRefused)) return [];
  }
  const isExecutable = await makesExecutable(maker, where, frame, { path, newPath });
  const value = { operation, path, newPath, mode: frame.mode, isExecutable, isIoUring };
  const event = maker.eventOf(container, frame, { case: "fileChange", value });
  const processPath = event.actor?.path ?? "";
  const change = { operation, path, newPath, processPath, isExecutable };
  const decision = evaluateFile(use.policy.filesystem, change);
  const judged: Judged = {
    section: Section.FILESYSTEM,
    event,
    decision,
    facts: decision.isHeld ? [heldFileFact(change)] : fileFacts(change),
    object: [processPath, operation, path, newPath],
    act: {
      killed: "",
      denied: "the open failed with EPERM",
      happened: isIoUring ? "the change had been asked for" : "the file had been changed",
    },
  };
  return [judged];
}

export function judgeSyscall(
  maker: EventMaker,
  container: WatchedContainer,
  frame: SyscallFrame,
  use: SlotUse,
): Judged {
  const isCompat = (frame.flags & SyscallFlag.COMPAT) !== 0;
  const used = { name: syscallName(frame.number, isCompat), isCompat };
  const event = maker.eventOf(container, frame, { case: "syscallUse", value: { ...used, number: frame.number } });
  return {
    section: Section.SYSCALL,
    event,
    decision: evaluateSyscall(use.policy.syscall, used),
    facts: [syscallFact(used)],
    object: [used.name, isCompat],
    act: { ...NOTHING, happened: "the system call had been made" },
  };
}

export function judgeRedirect(
  maker: EventMaker,
  container: WatchedContainer,
  frame: RedirectFrame,
  use: SlotUse,
): Judged {
  const { descriptor } = frame;
  const event = maker.eventOf(container, frame, { case: "streamRedirect", value: { descriptor } });
  const process = redirectedProcess(event.actor, descriptor);
  const decision = evaluateRedirect(use.policy.process, process);
  return {
    section: Section.PROCESS,
    event,
    decision,
    facts: [],
    object: ["redirect", process.path],
    act: { ...NOTHING, happened: "the stream had been redirected", target: frame.actor },
  };
}

export function judgeRefused(
  maker: EventMaker,
  container: WatchedContainer,
  frame: RefusedFrame,
  use: SlotUse,
): Judged {
  const path = escapeBytes(frame.path);
  const act = { ...NOTHING, denied: frame.isExec ? "the exec failed with EPERM" : "the open failed with EPERM" };
  const [actor, ...ancestors] = maker.processes.ancestors(frame.pid, 0n);
  if (frame.isExec) {
    const process = create(ProcessSchema, {
      pid: frame.pid,
      path,
      name: baseName(path),
      contentState: ContentState.UNKNOWN,
    });
    const event = maker.event(
      container,
      frame.ktimeNs,
      { case: "exec", value: { process, ancestors: [...(actor ? [actor] : []), ...ancestors] } },
      process,
    );
    const decision = evaluateProcess(use.policy.process, {
      path,
      name: baseName(path),
      invokedPath: path,
      contentState: ContentState.UNCHANGED,
      sha256: "",
      parents: actor ? [actor.path] : [],
      isScript: false,
      ...NOTHING_SPECIAL,
    });
    return {
      section: Section.PROCESS,
      event,
      decision: notLearned(decision),
      facts: [],
      object: ["refused", path],
      act,
    };
  }
  const change = { operation: FileOperation.WRITE, path, newPath: "", isExecutable: false };
  const event = maker.event(container, frame.ktimeNs, { case: "fileChange", value: change }, actor, ancestors);
  const decision = evaluateFile(use.policy.filesystem, { ...change, processPath: actor?.path ?? "" });
  return {
    section: Section.FILESYSTEM,
    event,
    decision: notLearned(decision),
    facts: [],
    object: ["refused", path],
    act,
  };
}

/**
 * A name that appeared or went where the sensor told of nothing: judged by what lists and detectors say of the file, as it is
 * now. Undefined where they say nothing. Who did it is not known, and may be nobody of the container's: it is only told.
 */
export async function judgeName(
  maker: EventMaker,
  container: WatchedContainer,
  path: string,
  use: SlotUse,
): Promise<Judged | undefined> {
  const { rootfs } = container.identified.bundle;
  const status = await statusAt(rootfs, path);
  // That folders are made is not told, whoever does it.
  if (status?.isDirectory()) return undefined;
  const operation = status ? FileOperation.CREATE : FileOperation.DELETE;
  const change = { operation, path, newPath: "", isExecutable: false };
  const judge = (as: FileOperation) =>
    evaluateFile(use.policy.filesystem, { ...change, operation: as, processPath: "" });
  const own = judge(operation);
  // A folder takes along what lies below it; whether what has gone was one nobody knows any more.
  const decision = isFound(own) || status ? own : judge(FileOperation.RENAME);
  if (!isFound(decision)) return undefined;
  if (decision.effectApplied > Effect.ALERT) decision.effectApplied = Effect.ALERT;
  if (decision.explanation) decision.explanation.message += "; who did it was not seen";
  const event = maker.event(container, bootNs(), { case: "fileChange", value: change });
  const object = ["name", path, change.operation];
  return {
    section: Section.FILESYSTEM,
    event,
    decision: notLearned(decision),
    facts: [],
    object,
    act: NOTHING,
    isCompanion: true,
  };
}

/** True where a list or a detector has something to say. */
function isFound({ outcome }: Decision): boolean {
  return outcome === Outcome.DENIAL || outcome === Outcome.DETECTION;
}

/** Now, as the kernel counts. */
function bootNs(): bigint {
  return BigInt(Math.round(uptime() * 1e9));
}

/** What did not happen teaches nothing. */
function notLearned(decision: Decision): Decision {
  decision.isLearned = false;
  decision.isHeld = false;
  return decision;
}
