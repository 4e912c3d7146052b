import { Worker } from "node:worker_threads";
import { fromBinary } from "@bufbuild/protobuf";
import { type StaticAnalysis, StaticAnalysisSchema } from "#gen/gabion/model/v1/model_pb.ts";
import type { ImageConfig } from "./analyse.ts";

/** An image that takes longer is given up. */
const TIMEOUT_MS = 20_000;
const HEAP_MIB = 256;

/** Analyses an image in a thread of its own, with an end and a limit. */
export async function runStaticAnalysis(config: ImageConfig): Promise<StaticAnalysis> {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), {
    workerData: config,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
  });
  const done = Promise.withResolvers<Uint8Array>();
  worker.once("message", done.resolve);
  worker.once("error", done.reject);
  worker.once("exit", (code) => done.reject(new Error(`the analysis ended with ${code}`)));
  const timer = setTimeout(
    () => done.reject(new Error(`the analysis took longer than ${TIMEOUT_MS / 1_000} s`)),
    TIMEOUT_MS,
  );
  try {
    return fromBinary(StaticAnalysisSchema, await done.promise);
  } finally {
    clearTimeout(timer);
    await worker.terminate();
  }
}
