import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { Observer } from "../demo/observer.ts";
import { LocalStack } from "../demo/stack.ts";
import { StoryError, tellStory } from "../demo/story.ts";
import { DeadlineError } from "../demo/until.ts";
import { Sandbox } from "../sandbox/runc.ts";
import { CommandError } from "./connection.ts";
import { print } from "./output.ts";

/** Short times, so that what takes a day takes seconds. */
const SETTINGS = ["model.learning=4s", "model.dryRun=3s", "agent.span=500ms"];

async function play(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "gabion-demo-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const sandbox = stack.use(await Sandbox.open(`gabion-demo-${process.pid}`, join(directory, "sandbox")));
  print("Gabion starts: message bus, four services, and the agent with its sensor in the kernel.");
  const options = {
    data: join(directory, "data"),
    scope: sandbox.scope,
    runcRoot: sandbox.runcRoot,
    settings: SETTINGS,
  };
  const local = stack.use(await LocalStack.start(options));
  if (local.log.includes("has no sensor")) throw new CommandError(`no sensor can run here: ${local.log.trim()}`);
  const observer = stack.use(await Observer.open(local.connection));
  await tellStory({ sandbox, observer, tell: print });
  print("Everything above was observed on real containers. Cleaning up.");
}

/** Adds `gabion demo`. */
export function addDemoCommand(program: Command): void {
  program
    .command("demo")
    .description(
      "tell Gabion's story with real containers: learn, alert, prevent, block; exits 0 only if all was observed",
    )
    .action(async () => {
      if (process.getuid?.() !== 0) throw new CommandError("the demo starts containers and needs root");
      try {
        await play();
      } catch (error) {
        if (error instanceof StoryError || error instanceof DeadlineError) throw new CommandError(error.message);
        throw error;
      }
    });
}
