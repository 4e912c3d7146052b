import { parentPort, workerData } from "node:worker_threads";
import { toBinary } from "@bufbuild/protobuf";
import { StaticAnalysisSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { analyseImage, type ImageConfig } from "./analyse.ts";
import { ShellParser } from "./shell-tree.ts";

/** A thread of its own for each image: what it takes in memory goes with it, and it can be ended. */
const analysis = analyseImage(workerData as ImageConfig, await ShellParser.load(), Date.now());
parentPort?.postMessage(toBinary(StaticAnalysisSchema, analysis));
