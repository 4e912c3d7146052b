import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { toCapabilities } from "./capabilities.ts";
import { Group } from "./wire/layout.ts";

interface Act {
  readonly section: keyof typeof Section;
  readonly cells: Readonly<Partial<Record<keyof typeof Effect, { readonly delivery?: keyof typeof Delivery }>>>;
}

const { acts } = JSON.parse(readFileSync(resolve(import.meta.dirname, "testdata/effects.json"), "utf8")) as {
  acts: readonly Act[];
};
const ALL = Object.values(Group).reduce((sum, bit) => sum | bit, 0);
/** What stops an act soonest comes first. */
const SOONEST: readonly Delivery[] = [
  Delivery.DENIED,
  Delivery.KILLED,
  Delivery.AFTER_THE_FACT,
  Delivery.NOT_POSSIBLE,
  Delivery.AUDITED,
];

function effects(groups: number) {
  const hello = { kind: "hello", groups, hostMountNs: 1, hostPidNs: 1, kernelRelease: "6.18", missing: "" } as const;
  return toCapabilities(hello, "").effects;
}

function noteOf(groups: number, section: Section, effect: Effect): string {
  return effects(groups).find((e) => e.section === section && e.effect === effect)?.note ?? "";
}

test("each effect is said to come to the best that it came to on a real container", () => {
  for (const { section, effect, delivery } of effects(ALL)) {
    const seen: number[] = acts
      .filter((act) => Section[act.section] === section)
      .flatMap(({ cells }) => Object.entries(cells).filter(([name]) => Effect[name as keyof typeof Effect] === effect))
      .flatMap(([, cell]) => (cell.delivery === undefined ? [] : [Delivery[cell.delivery]]));
    const isOffered = section !== Section.SYSCALL || effect !== Effect.PREVENT;
    const best = isOffered ? SOONEST.find((each) => seen.includes(each)) : Delivery.NOT_POSSIBLE;
    expect([section, effect, delivery]).toEqual([section, effect, best]);
  }
});

test.each([
  [Group.TCP, Section.NETWORK, "listens without bind is not seen"],
  [Group.SYSCALL, Section.NETWORK, "opens a packet socket is not seen"],
  [Group.RING, Section.NETWORK, "by io_uring is not seen"],
  [Group.RING, Section.FILESYSTEM, "asked for by io_uring is not seen"],
  [Group.FANOTIFY, Section.FILESYSTEM, "told after the fact"],
])("without program group %d what section %d cannot do is said", (group, section, words) => {
  expect(noteOf(ALL & ~group, section, Effect.PREVENT)).toContain(words);
  expect(noteOf(ALL, section, Effect.PREVENT)).not.toContain("not seen");
});

test("a section whose own programs did not load can do nothing", () => {
  for (const { section, delivery } of effects(ALL & ~Group.SYSCALL)) {
    if (section === Section.FILESYSTEM || section === Section.SYSCALL) expect(delivery).toBe(Delivery.NOT_POSSIBLE);
  }
});
