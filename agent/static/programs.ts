import { baseName } from "#core/policy/process-event.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { isElf, parseElf } from "./elf.ts";
import type { ImageFiles } from "./image-files.ts";
import { SERVERS } from "./server-ports.ts";
import { Scope, type Words } from "./shell-scope.ts";
import { SCRIPT_MAX_BYTES, type ShellParser } from "./shell-tree.ts";
import { absolutePath, findProgram, type Place, ShellWalk } from "./shell-walk.ts";
import { SUPERVISORS } from "./supervisors.ts";

/** A program that the image will run. */
export interface FoundProgram {
  /** Real path of the program that the kernel loads: of a script that of its interpreter. */
  readonly path: string;
  /** Name it goes by: base name as invoked; for a script its path. */
  readonly name: string;
  readonly parentPath: string;
  readonly reason: string;
  readonly sha256: string;
}

export interface FoundPort {
  readonly transport: "tcp" | "udp";
  readonly port: number;
  readonly reason: string;
}

export interface FoundLibrary {
  readonly path: string;
  readonly sha256: string;
  readonly neededBy: string;
}

/** Bounds of what one analysis finds. */
const PROGRAMS_MAX = 1_500;
const NOTES_MAX = 200;
const LIBRARIES_MAX = 500;
const PORTS_MAX = 200;
const NOTE_MAX = 1_000;
const DEPTH_MAX = 32;

const SHELLS = new Set(["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"]);
/** Where the dynamic loader looks without being told (ld.so(8)), with Debian's folders for its architectures. */
const LIBRARY_FOLDERS = [
  "/lib",
  "/usr/lib",
  "/lib64",
  "/usr/lib64",
  "/usr/local/lib",
  "/lib/*-linux-gnu*",
  "/usr/lib/*-linux-gnu*",
];

/** Options of a wrapper that take a value. */
type Wrapper = { readonly withValue?: readonly string[]; readonly positional?: number; readonly isVariable?: boolean };

/** Programs that run the rest of their arguments, in their own place or below them. */
const WRAPPERS: Readonly<Record<string, Wrapper>> = {
  tini: { withValue: ["-p", "-e"] },
  "tini-static": { withValue: ["-p", "-e"] },
  "docker-init": {},
  "dumb-init": { withValue: ["-r", "--rewrite"] },
  catatonit: {},
  gosu: { positional: 1 },
  "su-exec": { positional: 1 },
  chpst: { withValue: ["-u", "-U", "-e", "-/", "-n", "-l", "-L", "-m", "-d", "-o", "-p", "-f", "-c"] },
  setpriv: { withValue: ["--reuid", "--regid", "--groups", "--inh-caps", "--bounding-set"] },
  setuidgid: { positional: 1 },
  "s6-setuidgid": { positional: 1 },
  env: { withValue: ["-u", "-C", "--unset", "--chdir"], isVariable: true },
  "with-contenv": {},
  nice: { withValue: ["-n", "--adjustment"] },
  ionice: { withValue: ["-c", "-n", "-p"] },
  nohup: {},
  setsid: {},
  stdbuf: { withValue: ["-i", "-o", "-e"] },
  timeout: { withValue: ["-k", "-s", "--kill-after", "--signal"], positional: 1 },
  time: {},
  xargs: { withValue: ["-I", "-n", "-P", "-L", "-d", "-a", "-E", "-s"] },
  sudo: { withValue: ["-u", "-g"], isVariable: true },
  catchsegv: {},
};

/** Finds out what commands run, and what those run in turn. */
export class Programs {
  readonly image: ImageFiles;
  readonly programs = new Map<string, FoundProgram>();
  readonly ports = new Map<string, FoundPort>();
  readonly libraries = new Map<string, FoundLibrary>();
  readonly unresolved = new Set<string>();
  readonly files = new Set<string>();
  readonly #walk: ShellWalk;
  readonly #followed = new Set<string>();
  #depth = 0;
  /** Real path of the shell whose script is followed; empty where nobody started it from here. */
  #parent = "";

  constructor(image: ImageFiles, parser: ShellParser) {
    this.image = image;
    this.#walk = new ShellWalk({
      image,
      parser,
      run: (words, scope, place, isExec) => this.run(words, scope, place, isExec),
      unresolved: (place, message) => this.note(place, message),
      readFile: (path) => this.noteFile(path),
    });
  }

  note({ file, line }: Place, message: string): void {
    if (this.unresolved.size < NOTES_MAX) this.unresolved.add(`${file}:${line}: ${message}`.slice(0, NOTE_MAX));
  }

  noteFile(path: string): void {
    if (this.files.size < NOTES_MAX) this.files.add(path);
  }

  addPort(transport: "tcp" | "udp", port: number, reason: string): void {
    const key = `${transport}/${port}`;
    if (port > 0 && port < 65_536 && this.ports.size < PORTS_MAX && !this.ports.has(key))
      this.ports.set(key, { transport, port, reason: reason.slice(0, NOTE_MAX) });
  }

  /** A command with its words, found at a place. */
  run(words: Words, scope: Scope, place: Place, isExec = false): void {
    const [name] = words;
    if (name === undefined || name === "") return;
    const found = findProgram(this.image, name, scope);
    if (found === undefined) {
      this.note(place, `\`${name}\` is not in the image${name.includes("/") ? "" : "'s PATH"}`);
      return;
    }
    this.#start(found, words, scope, place, isExec);
  }

  #start(path: string, words: Words, scope: Scope, place: Place, isExec: boolean): void {
    if (this.#depth >= DEPTH_MAX) {
      this.note(place, "commands run each other further than is followed");
      return;
    }
    this.#depth += 1;
    const file = this.image.read(path, SCRIPT_MAX_BYTES + 1);
    if (file && isElf(file.bytes)) this.#startElf(file.path, words, scope, place, isExec);
    else if (file) this.#startScript(path, file.bytes, words, scope, place, isExec);
    this.#depth -= 1;
  }

  #add(path: string, name: string, place: Place, why: string, isExec: boolean): void {
    const key = `${path}\0${name}`;
    if (this.programs.has(key) || this.programs.size >= PROGRAMS_MAX) return;
    this.programs.set(key, {
      path,
      name,
      parentPath: isExec ? "" : this.#parent,
      reason: `${place.file}${place.line > 0 ? `:${place.line}` : ""}: ${why}`.slice(0, NOTE_MAX),
      sha256: this.image.sha256(path) ?? "",
    });
  }

  #startElf(real: string, words: Words, scope: Scope, place: Place, isExec: boolean): void {
    const name = baseName(words[0] ?? "");
    this.#add(real, name, place, isExec ? "exec" : "runs it", isExec);
    this.#addLibraries(real);
    this.#ports(name, words);
    const applet = baseName(real) === "busybox" && name === "busybox" ? words.slice(1) : undefined;
    if (applet) {
      this.#startApplet(real, applet, scope, place);
      return;
    }
    this.#inside(real, name, words, scope, place);
  }

  /** `busybox NAME …`: the process keeps the name that it was called by. */
  #startApplet(real: string, words: Words, scope: Scope, place: Place): void {
    if (words[0] !== undefined) this.#inside(real, words[0], words, scope, place);
  }

  /** What a program runs because of its arguments. */
  #inside(real: string, name: string, words: Words, scope: Scope, place: Place): void {
    const wrapper = Object.hasOwn(WRAPPERS, name) ? WRAPPERS[name] : undefined;
    if (SHELLS.has(name)) this.#shell(real, words.slice(1), scope, place);
    else if (wrapper) this.#wrapped(wrapper, words.slice(1), scope, place);
    else if (name === "find") this.#find(words, scope, place);
    else if (name === "su" || name === "runuser") this.#su(real, words, scope, place);
    this.#supervise(name, words, scope, place);
  }

  #supervise(name: string, words: Words, scope: Scope, place: Place): void {
    const supervisor = Object.hasOwn(SUPERVISORS, name) ? SUPERVISORS[name] : undefined;
    supervisor?.(this, words, scope, place, (command, at) => this.#commandLine(command, scope, at));
  }

  #wrapped(
    { withValue = [], positional = 0, isVariable = false }: Wrapper,
    args: Words,
    scope: Scope,
    place: Place,
  ): void {
    let at = 0;
    while (at < args.length) {
      const arg = args[at];
      if (arg === undefined) {
        this.note(place, "runs a program that its arguments do not tell");
        return;
      }
      if (arg === "--") {
        at += 1;
        break;
      }
      if (isVariable && /^[A-Za-z_]\w*=/.test(arg)) at += 1;
      else if (withValue.includes(arg)) at += 2;
      else if (arg.startsWith("-")) at += 1;
      else break;
    }
    const rest = args.slice(at + positional);
    if (rest.length === 0) return;
    if (rest[0] === undefined) {
      this.note(place, "runs a program that its arguments do not tell");
      return;
    }
    this.#walk.call(rest, scope.fork(), place);
  }

  #find(words: Words, scope: Scope, place: Place): void {
    words.forEach((word, at) => {
      if (word !== "-exec" && word !== "-execdir" && word !== "-ok") return;
      const end = words.findIndex((each, i) => i > at && (each === ";" || each === "+"));
      const command = words.slice(at + 1, end < 0 ? undefined : end);
      if (command[0] !== undefined) this.run(command, scope, place);
    });
  }

  #su(real: string, words: Words, scope: Scope, place: Place): void {
    const at = words.findIndex((word) => word === "-c" || word === "--command");
    const text = at < 0 ? undefined : words[at + 1];
    if (at >= 0 && text === undefined) {
      this.note(place, "runs a text that cannot be told");
      return;
    }
    if (text !== undefined) this.#text(real, text, scope, place);
  }

  #shell(real: string, args: Words, scope: Scope, place: Place): void {
    const { isText, at } = shellOperand(args);
    const operand = args[at];
    if (at >= args.length) return;
    if (operand === undefined) this.note(place, `a shell runs a ${isText ? "text" : "script"} that cannot be told`);
    else if (isText) this.#text(real, operand, new Scope(scope.vars, [args.slice(at + 2)], new Map()), place);
    else this.#scriptOf(real, operand, args.slice(at + 1), scope, place);
  }

  #scriptOf(shell: string, script: string, args: Words, scope: Scope, place: Place): void {
    const full = absolutePath(script, scope);
    const file = full === undefined ? undefined : this.image.read(full, SCRIPT_MAX_BYTES + 1);
    if (file) this.#script(shell, file.path, file.bytes, args, scope);
    else this.note(place, `a shell runs \`${script}\`, which is not in the image`);
  }

  #text(shell: string, text: string, scope: Scope, { file, line }: Place): void {
    this.#below(shell, () => this.#walk.script(text, `${file}:${line} (-c)`, scope.fork()));
  }

  #below(parent: string, run: () => void): void {
    const before = this.#parent;
    this.#parent = parent;
    run();
    this.#parent = before;
  }

  /** A script is followed once for each list of arguments. */
  #script(shell: string, path: string, bytes: Buffer, args: Words, scope: Scope): void {
    const key = JSON.stringify([path, args]);
    if (this.#followed.has(key)) return;
    this.#followed.add(key);
    this.noteFile(path);
    const own = new Scope(scope.vars, [args], new Map());
    this.#below(shell, () => this.#walk.script(bytes.subarray(0, SCRIPT_MAX_BYTES + 1).toString("utf8"), path, own));
  }

  #startScript(path: string, bytes: Buffer, words: Words, scope: Scope, place: Place, isExec: boolean): void {
    const first = bytes.subarray(0, 256).toString("latin1").split("\n")[0] ?? "";
    const shebang = /^#!\s*(\S+)(?:\s+(.*\S))?\s*$/.exec(first);
    const name = path.startsWith("/") ? path : `/${path}`;
    if (!shebang) {
      this.note(place, `\`${path}\` is neither an ELF program nor a script with its interpreter`);
      return;
    }
    const [, interpreter = "", option] = shebang;
    const real = this.image.realPath(interpreter);
    if (real === undefined) {
      this.note({ file: path, line: 1 }, `its interpreter \`${interpreter}\` is not in the image`);
      return;
    }
    this.#add(real, escapeBytes(Buffer.from(name)), place, isExec ? "exec of a script" : "runs a script", isExec);
    this.#addLibraries(real);
    const language = baseName(interpreter);
    const args = words.slice(1);
    this.#ports(baseName(path), words);
    this.#supervise(baseName(path), words, scope, place);
    if (SHELLS.has(language)) {
      this.#script(real, path, bytes, args, scope);
      return;
    }
    if (language === "env" || language === "with-contenv") {
      this.#byEnv(option ?? "", path, bytes, args, scope, place);
      return;
    }
    this.note({ file: path, line: 1 }, `is a script of \`${language}\`, which is not followed`);
  }

  /** `#!/usr/bin/env bash`: env looks for the interpreter and takes its place. */
  #byEnv(option: string, path: string, bytes: Buffer, args: Words, scope: Scope, place: Place): void {
    const language = option.replace(/^-S\s*/, "").split(/\s+/)[0] ?? "";
    const found = language === "" ? undefined : findProgram(this.image, language, scope);
    const real = found && this.image.realPath(found);
    if (!real) {
      this.note({ file: path, line: 1 }, `its interpreter \`${language}\` is not in the image's PATH`);
      return;
    }
    this.#add(real, baseName(language), place, `interpreter of ${path}`, true);
    if (SHELLS.has(baseName(language))) {
      this.#script(real, path, bytes, args, scope);
      return;
    }
    this.note({ file: path, line: 1 }, `is a script of \`${language}\`, which is not followed`);
  }

  /** A command line of a supervisor's configuration, which knows quotes but is no shell. */
  #commandLine(command: string, scope: Scope, place: Place): void {
    const words = [...command.matchAll(/"((?:[^"\\]|\\.)*)"|'([^']*)'|(\S+)/g)].map(([, a, b, c]) => a ?? b ?? c ?? "");
    this.#below("", () => this.run(words, scope.fork(), place));
  }

  #ports(name: string, words: Words): void {
    const server = Object.hasOwn(SERVERS, name) ? SERVERS[name] : undefined;
    server?.(this.image, words, (transport, port, reason) => this.addPort(transport, port, `${name}: ${reason}`));
  }

  /** The loader and everything that it will load. */
  #addLibraries(path: string): void {
    const elf = parseElf(this.image.readerOf(path));
    if (!elf) return;
    const names = [...(elf.interpreter ? [elf.interpreter] : []), ...elf.needed];
    const folders = [
      ...elf.searched.map((folder) => folder.replaceAll(/\$\{?ORIGIN\}?/g, path.slice(0, path.lastIndexOf("/")))),
      ...LIBRARY_FOLDERS,
    ];
    for (const name of names) this.#addLibrary(name, folders, path);
  }

  #addLibrary(name: string, folders: readonly string[], neededBy: string): void {
    const places = name.includes("/")
      ? [name]
      : folders
          .flatMap((folder) => (folder.includes("*") ? this.image.glob(folder) : [folder]))
          .map((folder) => `${folder}/${name}`);
    const file = places.map((place) => this.image.read(place, 0)).find((found) => found !== undefined);
    if (!file) {
      this.note({ file: neededBy, line: 0 }, `needs the library \`${name}\`, which is not where loaders look`);
      return;
    }
    if (this.libraries.has(file.path) || this.libraries.size >= LIBRARIES_MAX) return;
    this.libraries.set(file.path, { path: file.path, sha256: this.image.sha256(file.path) ?? "", neededBy });
    this.#addLibraries(file.path);
  }
}

/** Where a shell's script or text stands among its arguments. */
function shellOperand(args: Words): { readonly isText: boolean; readonly at: number } {
  for (let at = 0; at < args.length; at += 1) {
    const arg = args[at];
    if (arg === undefined || !/^[-+]./.test(arg)) return { isText: false, at };
    if (arg === "--") return { isText: false, at: at + 1 };
    if (/^-\w*c$/.test(arg)) return { isText: true, at: at + 1 };
    if (arg === "-o" || arg === "+o") at += 1;
  }
  return { isText: false, at: args.length };
}
