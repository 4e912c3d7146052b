import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import type { StaticAnalysis } from "#gen/gabion/model/v1/model_pb.ts";
import { analyseImage } from "./analyse.ts";
import { parseElf } from "./elf.ts";
import { ImageFiles } from "./image-files.ts";
import { ShellParser } from "./shell-tree.ts";
import { runStaticAnalysis } from "./static-analysis.ts";

interface Fixture {
  readonly description: string;
  readonly args: readonly string[];
  readonly env?: readonly string[];
  readonly expose?: readonly string[];
  readonly programs: readonly string[];
  readonly links?: Readonly<Record<string, string>>;
  readonly files?: Readonly<Record<string, string>>;
  readonly expect: {
    readonly programs: readonly string[];
    readonly not?: readonly string[];
    readonly ports?: readonly string[];
    readonly unresolved?: readonly string[];
  };
}

const FIXTURES = join(import.meta.dirname, "../testdata/entrypoints");
/** The beginning of an ELF file: enough to be known as a program. */
const ELF = Buffer.concat([Buffer.from("\x7fELF\x02\x01\x01", "latin1"), Buffer.alloc(57)]);
const roots: string[] = [];
let parser: ShellParser;

beforeAll(async () => {
  parser = await ShellParser.load();
});
afterAll(() => {
  for (const root of roots) rmSync(root, { recursive: true });
});

function put(root: string, path: string, write: (target: string) => void): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  write(join(root, path));
}

function makeRoot({ programs, links = {}, files = {} }: Pick<Fixture, "programs" | "links" | "files">): string {
  const root = mkdtempSync(join(tmpdir(), "gabion-image-"));
  roots.push(root);
  for (const path of programs) put(root, path, (target) => writeFileSync(target, ELF, { mode: 0o755 }));
  for (const [path, to] of Object.entries(links)) put(root, path, (target) => symlinkSync(to, target));
  for (const [path, text] of Object.entries(files)) {
    const mode = text.startsWith("#!") ? 0o755 : 0o644;
    put(root, path, (target) => writeFileSync(target, text, { mode }));
  }
  return root;
}

function analyse(fixture: Omit<Fixture, "expect" | "description">): StaticAnalysis {
  const { args, env = [], expose = [] } = fixture;
  return analyseImage({ rootfs: makeRoot(fixture), args, cwd: "/", env, exposedPorts: expose }, parser, 0);
}

function programsOf({ items }: StaticAnalysis): string[] {
  return items.flatMap(({ fact }) =>
    fact?.kind.case === "process" ? [`${fact.kind.value.path} as ${fact.kind.value.name}`] : [],
  );
}

function portsOf({ items }: StaticAnalysis): string[] {
  return items.flatMap(({ fact }) => {
    if (fact?.kind.case !== "listen") return [];
    return [`${fact.kind.value.transport === Transport.TCP ? "tcp" : "udp"}/${fact.kind.value.port}`];
  });
}

test.each(readdirSync(FIXTURES))("the entry point of %s", (name) => {
  const fixture = parse(readFileSync(join(FIXTURES, name), "utf8")) as Fixture;
  const found = analyse(fixture);
  const { programs, not = [], ports = [], unresolved } = fixture.expect;
  expect(programsOf(found)).toEqual(expect.arrayContaining([...programs]));
  for (const each of not) expect(programsOf(found)).not.toContain(each);
  expect(portsOf(found).sort()).toEqual([...ports].sort());
  if (unresolved) {
    for (const text of unresolved) expect(found.unresolved.join("\n")).toContain(text);
  } else {
    expect(found.unresolved).toEqual([]);
  }
  for (const { reason, fact } of found.items) {
    expect(reason).not.toBe("");
    if (fact?.kind.case === "process")
      expect(found.items.find((i) => i.fact === fact)?.contentSha256).toMatch(/^[0-9a-f]{64}$/);
  }
});

test("a file that sources itself, a script of megabytes, and a call without end come to an end and are told", () => {
  const circle = analyse({
    args: ["/a"],
    programs: ["/bin/sh"],
    files: { "/a": "#!/bin/sh\n. /b\n", "/b": ". /c\n", "/c": ". /b\n" },
  });
  expect(circle.unresolved).toEqual(["/c:1: sources `/b` in a circle"]);
  const large = analyse({
    args: ["/a"],
    programs: ["/bin/sh"],
    files: { "/a": `#!/bin/sh\n${"echo x\n".repeat(800_000)}` },
  });
  expect(large.unresolved).toEqual(["/a:1: is larger than 256 KiB and was not read"]);
  const endless = analyse({ args: ["/a"], programs: ["/bin/sh"], files: { "/a": "#!/bin/sh\nf() { f; f; }\nf\n" } });
  expect(endless.unresolved.join()).toContain("goes on further than is followed");
  const ping = analyse({ args: ["/a"], programs: ["/bin/sh"], files: { "/a": '#!/bin/sh\nexec /a "$@" x\n' } });
  expect(ping.unresolved.join()).toContain("further than is followed");
});

test("a link never leads out of the image, and what is no file is not waited for", () => {
  const outside = mkdtempSync(join(tmpdir(), "gabion-outside-"));
  roots.push(outside);
  writeFileSync(join(outside, "x"), "#!/bin/sh\nstolen\n", { mode: 0o755 });
  const found = analyse({
    args: ["/a"],
    programs: ["/bin/sh", "/bin/stolen"],
    files: { "/a": `#!/bin/sh\n. /etc/../../../../..${outside}/x\n/l\n` },
    links: { "/l": `${outside}/x` },
  });
  expect(programsOf(found)).toEqual(["/bin/sh as /a"]);
  expect(found.unresolved).toHaveLength(2);
});

test("what is no shell is told with its line, and the rest is followed", () => {
  const found = analyse({
    args: ["/a"],
    programs: ["/bin/sh", "/bin/x", "/bin/y"],
    files: { "/a": "#!/bin/sh\nx\n)) ((\ny\n" },
  });
  expect(programsOf(found)).toEqual(expect.arrayContaining(["/bin/x as x"]));
  expect(found.unresolved.join()).toContain("is not understood");
});

test.each([
  ["local", "CMD=good; f() { local CMD=evil; }; f; $CMD", ["good"]],
  ["unset", "CMD=evil; unset CMD; $CMD; good", ["good"]],
  ["return of a sourced file", ". /lib.sh; good", ["good"]],
  ["a value that is given where there is none", ": ${CMD:=good}; $CMD", ["good"]],
  ["exit in a function", "die() { exit 1; }; good; die; evil", ["good"]],
  ["exec in a function", 'main() { exec "$@"; }; main good; evil', ["good"]],
  ["rounds of a loop", "CMD=good; for i in 1 2; do $CMD; CMD=other; done", ["good", "other"]],
  ["a condition that is known", 'if [ "$A" = x ]; then good; else evil; fi', ["good"]],
  ["an exec that may happen", "if check; then exec good; fi; exec other", ["check", "good", "other"]],
])("%s is followed as a shell does it", (_, script, expected) => {
  const names = ["good", "evil", "other", "check"];
  const found = analyse({
    args: ["/a"],
    env: ["A=x", "PATH=/bin"],
    programs: ["/bin/sh", ...names.map((name) => `/bin/${name}`)],
    files: { "/a": `#!/bin/sh\n${script}\n`, "/lib.sh": "return 0\n" },
  });
  const run = programsOf(found).flatMap((text) => names.find((name) => text.endsWith(` as ${name}`)) ?? []);
  expect(run.sort()).toEqual([...expected].sort());
});

test("relative paths begin at the working directory, and where `cd` leads", () => {
  const files = {
    "/app/run.sh": "#!/bin/sh\n. ./lib.sh\ncd bin\n./tool\ncd $UNKNOWN_DIR/x$(date)\n./lost\n",
    "/app/lib.sh": "helper\n",
  };
  const rootfs = makeRoot({ programs: ["/bin/sh", "/bin/date", "/bin/helper", "/app/bin/tool", "/lost"], files });
  const config = { rootfs, args: ["./run.sh"], cwd: "/app", env: ["PATH=/bin"], exposedPorts: [] };
  const found = analyseImage(config, parser, 0);
  const expected = ["/bin/sh as /app/run.sh", "/bin/helper as helper", "/app/bin/tool as tool"];
  expect(programsOf(found)).toEqual(expect.arrayContaining(expected));
  expect(programsOf(found)).not.toContain("/lost as lost");
  expect(found.unresolved.join()).toContain("`./lost`");
});

test("a text that grows, a name that is too long, and patterns made to explode end soon", () => {
  const grow = `X=aaaaaaaa\n${"X=$X$X\n".repeat(40)}$X\n${"y".repeat(300)}\nY=$\{X%%*a*a*a*b}\ngood\n`;
  const found = analyse({ args: ["/a"], programs: ["/bin/sh", "/bin/good"], files: { "/a": `#!/bin/sh\n${grow}` } });
  expect(programsOf(found)).toContain("/bin/good as good");
});

test("a process of its own finds the same, and one that cannot says why", async () => {
  const rootfs = makeRoot({ programs: ["/bin/web"] });
  const config = { rootfs, args: ["/bin/web"], cwd: "/", env: [], exposedPorts: ["80/tcp"] };
  const found = await runStaticAnalysis(config);
  expect(programsOf(found)).toEqual(["/bin/web as web"]);
  expect(portsOf(found)).toEqual(["tcp/80"]);
  await expect(runStaticAnalysis({ ...config, rootfs: "/nowhere" })).rejects.toThrow("it ended with status 1");
});

test("the loader and libraries of a real program are found", () => {
  const image = new ImageFiles("/");
  const read = image.readerOf(process.execPath);
  const elf = parseElf(read);
  expect(elf?.interpreter).toMatch(/ld-linux/);
  expect(elf?.needed).toContain("libc.so.6");
  expect(parseElf(() => Buffer.from("\x7fELF", "latin1"))).toBeUndefined();
  expect(parseElf((at, length) => (at > 0 ? Buffer.alloc(0) : read(at, length)))).toBeUndefined();
});
