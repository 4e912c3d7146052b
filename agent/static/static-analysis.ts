import { spawn } from "node:child_process";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { type StaticAnalysis, StaticAnalysisSchema } from "#gen/gabion/model/v1/model_pb.ts";
import type { ImageConfig } from "./analyse.ts";

/** An image that takes longer is given up. */
const TIMEOUT_MS = 20_000;
const HEAP_MIB = 256;
/** More than any answer within the limits of its message. */
const ANSWER_MAX_BYTES = 16 * 1024 * 1024;

/** Analyses an image in a process of its own, with an end and a limit. */
export async function runStaticAnalysis(config: ImageConfig): Promise<StaticAnalysis> {
  const args = [`--max-old-space-size=${HEAP_MIB}`, join(import.meta.dirname, "worker.ts")];
  const child = spawn(process.execPath, args, {
    stdio: ["pipe", "pipe", "ignore"],
    // The image's environment goes by the pipe; the agent's is none of its business.
    env: {},
    timeout: TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  const chunks: Buffer[] = [];
  let bytes = 0;
  child.stdout.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > ANSWER_MAX_BYTES) child.kill("SIGKILL");
    else chunks.push(chunk);
  });
  const ended = new Promise<string>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (code, signal) => resolve(code === 0 ? "" : `it ended with ${signal ?? `status ${code}`}`));
  });
  // Where it ends before it has read everything, its end tells why.
  child.stdin.on("error", () => {});
  child.stdin.end(JSON.stringify(config));
  const fault = await ended;
  if (fault !== "") throw new Error(fault);
  return fromBinary(StaticAnalysisSchema, Buffer.concat(chunks));
}
