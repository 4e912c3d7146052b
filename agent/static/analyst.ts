import { create } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { type StaticAnalysis, StaticAnalysisSchema } from "#gen/gabion/model/v1/model_pb.ts";
import type { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { OciBundle } from "../containers/oci-bundle.ts";
import type { ImageConfig } from "./analyse.ts";
import { runStaticAnalysis } from "./static-analysis.ts";

export interface StaticAnalystOptions {
  readonly models: Pick<Client<typeof ModelService>, "submitStaticAnalysis">;
  /** Bundle of a container that is watched; undefined where it has gone. */
  readonly bundleOf: (container: Container) => OciBundle | undefined;
  readonly logger: Logger;
}

/** Images that may wait. What does not find room is asked for again with the next look at its model. */
const WAITING_MAX = 100;

/** Analyses images that model-service has not seen analysed, one after another, and tells it what was found. */
export class StaticAnalyst {
  readonly #options: StaticAnalystOptions;
  readonly #waiting = new Map<string, Container>();
  #isBusy = false;

  constructor(options: StaticAnalystOptions) {
    this.#options = options;
  }

  /** Asks for an analysis of a container's image. */
  request(container: Container): void {
    if (this.#waiting.size >= WAITING_MAX) return;
    this.#waiting.set(container.modelKey, container);
    if (!this.#isBusy) void this.#work();
  }

  async #work(): Promise<void> {
    this.#isBusy = true;
    for (const [modelKey, container] of this.#waiting) {
      await this.#analyse(container).catch((err: unknown) =>
        this.#options.logger.warn({ err, modelKey }, "image not analysed"),
      );
      // Behind it: what is asked for meanwhile is the same question.
      this.#waiting.delete(modelKey);
    }
    this.#isBusy = false;
  }

  async #analyse(container: Container): Promise<void> {
    const bundle = this.#options.bundleOf(container);
    if (!bundle) return;
    const { rootfs, exposedPorts, process } = bundle;
    const { modelKey, containerId } = container;
    const analysis = await this.#run({
      rootfs,
      exposedPorts,
      args: process.args,
      cwd: process.cwd,
      env: process.env,
    });
    await this.#options.models.submitStaticAnalysis({ modelKey, containerId, analysis });
  }

  /** An analysis that fails is told as one that found nothing, so that it is not tried for ever. */
  #run(config: ImageConfig): Promise<StaticAnalysis> {
    return runStaticAnalysis(config).catch((error: unknown) => {
      this.#options.logger.warn({ err: error }, "image not analysed");
      const message = error instanceof Error ? error.message : String(error);
      return create(StaticAnalysisSchema, {
        unresolved: [`the image could not be analysed: ${message}`.slice(0, 1_000)],
      });
    });
  }
}
