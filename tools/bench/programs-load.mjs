// Runs in the container: programs that people run, one kind after the other, once for each line of standard input. Prints as
// JSON what each kind took, in ns.
//   programs-load.mjs ADDRESS COMPILES REQUESTS LOOKUPS COPIES
import { spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { Agent, createServer, get } from "node:http";
import { createInterface } from "node:readline";

const [address, ...counts] = process.argv.slice(2);
const [compiles, requests, lookups, copies] = counts.map(Number);
// In memory: a disk has its own ideas of when it is busy.
const WORK = "/tmp/work";

function run(program, ...args) {
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program}: ${error ?? stderr}`);
}

// Each compilation is what a compiler's driver does: gcc starts cc1 and as, with files in /tmp between them.
function compile() {
  const objects = [];
  for (let i = 0; i < compiles; i += 1) {
    const source = `${WORK}/part${i}.c`;
    writeFileSync(
      source,
      `#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint part${i}(int n) { char line[64]; snprintf(line, sizeof line, "%d", n); return atoi(line) + (int)strlen(line); }\n`,
    );
    run("gcc", "-O2", "-c", source, "-o", `${WORK}/part${i}.o`);
    objects.push(`${WORK}/part${i}.o`);
  }
  run("ld", "-r", "-o", `${WORK}/all.o`, ...objects);
}

async function requestPages() {
  const page = Buffer.alloc(8_192, "x");
  const server = createServer((_, response) => response.end(page)).listen(8080, address);
  await new Promise((done) => server.once("listening", done));
  const agent = new Agent({ keepAlive: false });
  const request = () =>
    new Promise((done, failed) =>
      get({ host: address, port: 8080, agent }, (response) => response.resume().once("end", done)).once(
        "error",
        failed,
      ),
    );
  for (let i = 0; i < requests; i += 1) await request();
  server.close();
}

async function lookUp() {
  const resolver = createSocket("udp4");
  resolver.on("message", (query, from) => {
    const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
    const question = query.subarray(0, query.indexOf(0, 12) + 5);
    const reply = Buffer.concat([question, answer]);
    reply.writeUInt16BE(0x8180, 2);
    reply.fill(0, 6, 12);
    reply[7] = 1;
    resolver.send(reply, from.port, from.address);
  });
  await new Promise((done) => resolver.bind(53, address, done));
  // Through the C library, as most programs do.
  for (let i = 0; i < lookups; i += 1) await lookup(`host${i % 8}.internal.example`, { family: 4 });
  await new Promise((done) => resolver.close(done));
}

function copy() {
  for (let i = 0; i < copies; i += 1) {
    run("cp", "-r", `${WORK}/tree`, `${WORK}/copy`);
    run("rm", "-r", `${WORK}/copy`);
  }
}

rmSync(WORK, { recursive: true, force: true });
for (let i = 0; i < 20; i += 1) {
  mkdirSync(`${WORK}/tree/${i}`, { recursive: true });
  for (let j = 0; j < 10; j += 1) writeFileSync(`${WORK}/tree/${i}/${j}`, Buffer.alloc(16 * 1024, j));
}
for await (const _ of createInterface({ input: process.stdin })) {
  const times = {};
  for (const [name, part] of Object.entries({ compile, http: requestPages, dns: lookUp, copy })) {
    globalThis.gc({ type: "minor" });
    const begin = process.hrtime.bigint();
    await part();
    times[name] = Number(process.hrtime.bigint() - begin);
  }
  process.stdout.write(`${JSON.stringify(times)}\n`);
}
