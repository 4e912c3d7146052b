import type { ImageFiles } from "./image-files.ts";
import type { Scope, Words } from "./shell-scope.ts";
import type { Place } from "./shell-walk.ts";

/** What a supervisor needs of those who follow it. */
interface Follower {
  readonly image: ImageFiles;
  readonly noteFile: (path: string) => void;
  readonly note: (place: Place, message: string) => void;
  readonly run: (words: Words, scope: Scope, place: Place) => void;
}

/** Follows a supervisor's configuration. `commandLine` takes a command that stands in one. */
type Supervisor = (
  follower: Follower,
  words: Words,
  scope: Scope,
  place: Place,
  commandLine: (command: string, place: Place) => void,
) => void;

const CONFIG_MAX_BYTES = 256 * 1024;

function linesOf(follower: Follower, path: string): { readonly text: string; readonly place: Place }[] {
  const file = follower.image.read(path, CONFIG_MAX_BYTES);
  if (!file) return [];
  follower.noteFile(file.path);
  return file.bytes
    .toString("utf8")
    .split("\n")
    .map((text, i) => ({ text, place: { file: file.path, line: i + 1 } }));
}

/** Value of an option in any of its forms: `-c file`, `--configuration=file`. */
function optionOf(words: Words, ...names: readonly string[]): string | undefined {
  for (const [at, word] of words.entries()) {
    if (word === undefined) continue;
    if (names.includes(word)) return words[at + 1];
    const name = names.find((each) => each.startsWith("--") && word.startsWith(`${each}=`));
    if (name) return word.slice(name.length + 1);
  }
  return undefined;
}

/** Where supervisord looks (supervisor 4 manual, "Configuration File"). */
const SUPERVISORD_CONFIG = ["/etc/supervisord.conf", "/etc/supervisor/supervisord.conf", "/etc/supervisor.conf"];

const SUPERVISORD_FILES_MAX = 100;

/** Commands and further files of one configuration. */
function readSupervisord(follower: Follower, file: string): { commands: [string, Place][]; files: string[] } {
  const commands: [string, Place][] = [];
  const files: string[] = [];
  const base = file.slice(0, file.lastIndexOf("/"));
  let section = "";
  for (const { text, place } of linesOf(follower, file)) {
    section = /^\s*\[([^\]]+)\]/.exec(text)?.[1] ?? section;
    const [, key, value = ""] = /^\s*(command|files)\s*=\s*(.*\S)/.exec(text) ?? [];
    const isProgram = /^(program|eventlistener|fcgi-program):/.test(section);
    if (key === "command" && isProgram) commands.push([value.replace(/\s;.*$/, ""), place]);
    if (key !== "files" || section !== "include") continue;
    files.push(
      ...value.split(/\s+/).flatMap((each) => follower.image.glob(each.startsWith("/") ? each : `${base}/${each}`)),
    );
  }
  return { commands, files };
}

const supervisord: Supervisor = (follower, words, _scope, place, commandLine) => {
  const given = optionOf(words, "-c", "--configuration");
  const first = given ?? SUPERVISORD_CONFIG.find((each) => follower.image.realPath(each) !== undefined);
  if (first === undefined) {
    follower.note(place, "supervisord has no configuration in the image");
    return;
  }
  const all = new Set([first]);
  for (const file of all) {
    const { commands, files } = readSupervisord(follower, file);
    for (const [command, at] of commands) commandLine(command, at);
    for (const more of files) if (all.size < SUPERVISORD_FILES_MAX) all.add(more);
  }
};

/** Tables with a user's name before the command, and those without. */
const SYSTEM_TABLES = ["/etc/crontab", "/etc/cron.d/*"];
const USER_TABLES = ["/var/spool/cron/crontabs/*", "/etc/crontabs/*", "/var/spool/cron/*"];
const RUN_PARTS = [
  "/etc/cron.hourly/*",
  "/etc/cron.daily/*",
  "/etc/cron.weekly/*",
  "/etc/cron.monthly/*",
  "/etc/periodic/*/*",
];
const WHEN = /^\s*(?:@\w+|(?:\S+\s+){5})/;

const cron: Supervisor = (follower, _words, scope, place) => {
  const shell = (command: string, at: Place) => follower.run(["/bin/sh", "-c", command], scope.fork(), at);
  const table = (path: string, hasUser: boolean): void => {
    for (const { text, place: at } of linesOf(follower, path)) {
      if (/^\s*(#|$|\w+\s*=)/.test(text)) continue;
      const when = WHEN.exec(text)?.[0];
      const rest = when === undefined ? "" : text.slice(when.length).trim();
      const command = hasUser ? rest.replace(/^\S+\s+/, "") : rest;
      if (command !== "") shell(command.split("%")[0] as string, at);
    }
  };
  for (const pattern of SYSTEM_TABLES) for (const path of tables(follower.image, pattern)) table(path, true);
  for (const pattern of USER_TABLES) for (const path of tables(follower.image, pattern)) table(path, false);
  for (const pattern of RUN_PARTS)
    for (const path of follower.image.glob(pattern)) follower.run([path], scope.fork(), place);
};

function tables(image: ImageFiles, pattern: string): string[] {
  return pattern.includes("*") ? image.glob(pattern) : [pattern];
}

/** Where s6 and s6-overlay keep what they run (s6-overlay 2 and 3). */
const S6_SCRIPTS = [
  "/etc/s6-overlay/s6-rc.d/*/run",
  "/etc/s6-overlay/s6-rc.d/*/up",
  "/etc/s6-overlay/scripts/*",
  "/etc/services.d/*/run",
  "/etc/services.d/*/finish",
  "/etc/cont-init.d/*",
  "/etc/cont-finish.d/*",
  "/etc/s6/*/run",
];

const s6: Supervisor = (follower, words, scope, place) => {
  const folder = words.slice(1).findLast((word) => word?.startsWith("/"));
  const patterns = [...S6_SCRIPTS, ...(folder === undefined ? [] : [`${folder}/*/run`])];
  for (const pattern of patterns)
    for (const path of follower.image.glob(pattern)) follower.run([path], scope.fork(), place);
};

const runit: Supervisor = (follower, words, scope, place) => {
  const folder = words.slice(1).findLast((word) => word?.startsWith("/")) ?? "/etc/service";
  for (const path of follower.image.glob(`${folder}/*/run`)) follower.run([path], scope.fork(), place);
};

const runParts: Supervisor = (follower, words, scope, place) => {
  const folder = words.slice(1).findLast((word) => word !== undefined && !word.startsWith("-"));
  if (folder) for (const path of follower.image.glob(`${folder}/*`)) follower.run([path], scope.fork(), place);
};

/** Programs that run what their configuration names. */
export const SUPERVISORS: Readonly<Record<string, Supervisor>> = {
  supervisord,
  crond: cron,
  cron,
  "s6-svscan": s6,
  init: s6,
  runsvdir: runit,
  "run-parts": runParts,
};
