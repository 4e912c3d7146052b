import { setTimeout as sleep } from "node:timers/promises";
import { backoffMs } from "#lib/flow/retry.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { HelloFrame } from "./wire/frames.ts";
import { Sensor, type SensorOptions } from "./wire/sensor.ts";

export interface SupervisorOptions {
  readonly sensor: Omit<SensorOptions, "onEnd">;
  readonly logger: Logger;
  /** A sensor runs: everything is to be loaded into it. `isFirst` is false after a crash. */
  readonly onUp: (sensor: Sensor, hello: HelloFrame, isFirst: boolean) => Promise<void>;
  /** The sensor is gone: nothing is enforced in the kernel until the next one is up. */
  readonly onDown: (reason: string) => void;
}

/** A sensor that runs, until it ends with a reason. Wrapped, because a promise of a promise would be waited for whole. */
interface Life {
  readonly ended: Promise<string>;
}

const PING_MS = 500;
const BACKOFF = { firstMs: 100, maxMs: 10_000 };

/** Keeps a sensor running: starts it, asks it twice a second whether it lives, starts another when it is gone. */
export class SensorSupervisor implements AsyncDisposable {
  readonly #options: SupervisorOptions;
  readonly #abort = new AbortController();
  #sensor: Sensor | undefined;
  #running: Promise<void> | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  get sensor(): Sensor | undefined {
    return this.#sensor;
  }

  /** Starts the first sensor and fails with its words where it cannot run; later ones are started in the background. */
  async start(): Promise<void> {
    this.#running = this.#keep(await this.#startOne(true));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(new Error("the agent is ending"));
    await this.#sensor?.[Symbol.asyncDispose]();
    await this.#running;
  }

  async #startOne(isFirst: boolean): Promise<Life> {
    const ended = Promise.withResolvers<string>();
    const { sensor, hello } = await Sensor.open({ ...this.#options.sensor, onEnd: ended.resolve });
    this.#sensor = sensor;
    try {
      await this.#options.onUp(sensor, hello, isFirst);
    } catch (error) {
      this.#sensor = undefined;
      await sensor[Symbol.asyncDispose]();
      throw error;
    }
    const timer = setInterval(() => void sensor.ping().catch(() => {}), PING_MS);
    return { ended: ended.promise.finally(() => clearInterval(timer)) };
  }

  async #keep(first: Life): Promise<void> {
    let life = first;
    for (let failures = 0; ; ) {
      const reason = await life.ended;
      this.#sensor = undefined;
      if (this.#abort.signal.aborted) return;
      this.#options.onDown(reason);
      failures += 1;
      await sleep(backoffMs(failures, BACKOFF), undefined, { signal: this.#abort.signal }).catch(() => {});
      if (this.#abort.signal.aborted) return;
      life = await this.#startOne(false).then(
        (next) => {
          failures = 0;
          return next;
        },
        (error: Error) => {
          this.#options.logger.error({ err: error }, "the sensor does not start");
          return { ended: Promise.resolve(error.message) };
        },
      );
    }
  }
}
