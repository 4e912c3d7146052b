import { expect, test } from "vitest";
import { BoundedQueue } from "./bounded-queue.ts";
import { ManualClock } from "./clock.ts";
import { FanOut } from "./fan-out.ts";
import { backoffMs } from "./retry.ts";

test("a full queue lets the oldest go and counts it", async () => {
  const queue = new BoundedQueue<number>(3);
  for (let i = 0; i < 10; i += 1) queue.push(i);
  expect(await queue.takeAll()).toEqual([7, 8, 9]);
  expect(queue.lostCount).toBe(7);
});

test("a reader waits for items and ends when the queue is closed", async () => {
  const queue = new BoundedQueue<string>(3);
  const reading = queue.takeAll();
  queue.push("a");
  expect(await reading).toEqual(["a"]);
  queue.close();
  expect(await queue.takeAll()).toBeUndefined();
});

test("a slow watcher holds up nobody and is told what it missed", async () => {
  const fanOut = new FanOut<number>(2);
  const abort = new AbortController();
  const slow = fanOut.watch(abort.signal)[Symbol.asyncIterator]();
  for (let i = 0; i < 5; i += 1) fanOut.send(i);
  expect((await slow.next()).value).toEqual({ items: [3, 4], skippedCount: 3 });
  abort.abort();
  expect((await slow.next()).done).toBe(true);
});

test("a manual clock runs what falls due, in order", async () => {
  const clock = new ManualClock(0);
  const calls: string[] = [];
  clock.every(30, () => void calls.push(`a${clock.now()}`));
  using _ = clock.every(20, () => void calls.push(`b${clock.now()}`));
  await clock.advance(60);
  expect(calls).toEqual(["b20", "a30", "b40", "a60", "b60"]);
});

test("waits double up to a bound, with jitter", () => {
  const backoff = { firstMs: 100, maxMs: 1_000 };
  expect([1, 2, 3, 9].map((n) => backoffMs(n, backoff, () => 1))).toEqual([100, 200, 400, 1_000]);
  expect(backoffMs(1, backoff, () => 0)).toBe(50);
});
