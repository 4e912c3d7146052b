import { create } from "@bufbuild/protobuf";
import type { ProcessFact } from "#gen/gabion/model/v1/model_pb.ts";
import { type NearestItem, NearestItemSchema } from "#gen/gabion/policy/v1/policy_pb.ts";
import { baseName, type ProcessEvent } from "./process-event.ts";

const SHOWN = 3;
/** An audit carries several of these; none may make it too large to send. */
const TEXT_MAX = 1_024;

function sharedParts(left: string, right: string): number {
  const a = left.split("/");
  const b = right.split("/");
  let shared = 0;
  while (shared < a.length && shared < b.length && a[shared] === b[shared]) shared += 1;
  return shared;
}

/** Same path weighs most, then same name, then directories in common. */
function closeness(item: ProcessFact, event: ProcessEvent): number {
  const samePath = item.path === event.path ? 1000 : 0;
  const sameName = item.name === event.name || baseName(item.path) === baseName(event.path) ? 100 : 0;
  return samePath + sameName + sharedParts(item.path, event.path);
}

function difference(item: ProcessFact, event: ProcessEvent): string {
  if (item.path !== event.path)
    return baseName(item.path) === baseName(event.path) ? "another directory" : "another path";
  return item.name === event.name ? "other content" : `run as \`${item.name.slice(0, 200)}\``;
}

/** The learned processes nearest to what was seen, best first. */
export function nearestProcesses(items: readonly ProcessFact[], event: ProcessEvent): NearestItem[] {
  return items
    .map((item) => ({ item, score: closeness(item, event) }))
    .sort((a, b) => b.score - a.score || (a.item.path < b.item.path ? -1 : 1))
    .slice(0, SHOWN)
    .map(({ item }) =>
      create(NearestItemSchema, {
        item: `${item.path} as ${item.name}`.slice(0, TEXT_MAX),
        difference: difference(item, event),
      }),
    );
}

/** The items nearest to what was seen, by a distance that a section has for them, with in which way each differs. */
export function nearestItems<Item>(
  items: readonly Item[],
  distance: (item: Item) => number,
  text: (item: Item) => string,
  difference: (item: Item) => string,
): NearestItem[] {
  return items
    .map((item) => ({ item, far: distance(item) }))
    .sort((a, b) => a.far - b.far)
    .slice(0, SHOWN)
    .map(({ item }) =>
      create(NearestItemSchema, {
        item: text(item).slice(0, TEXT_MAX),
        difference: difference(item).slice(0, TEXT_MAX),
      }),
    );
}
