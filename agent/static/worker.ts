import { text } from "node:stream/consumers";
import { toBinary } from "@bufbuild/protobuf";
import { StaticAnalysisSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { analyseImage, type ImageConfig } from "./analyse.ts";
import { ShellParser } from "./shell-tree.ts";

/** A process of its own for each image: what it takes in memory goes with it, and it can be ended. */
const config = JSON.parse(await text(process.stdin)) as ImageConfig;
process.stdout.write(toBinary(StaticAnalysisSchema, analyseImage(config, await ShellParser.load(), Date.now())));
