import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { warnOfDelivery } from "./rule-delivery.ts";

test.each([
  [{ process: "/bin/nc" }, undefined],
  [{ process: "nc" }, undefined],
  [{ process: "/opt/*" }, undefined],
  [{ process: "/opt/*/nc" }, "a pattern that is not a whole folder"],
  [{ process: "n*" }, "a pattern that is not a whole folder"],
  [{ process: "/bin/nc", sha256: "a".repeat(64) }, "its content is compared once `/bin/nc` runs"],
  [{ process: "/bin/nc", parents: ["/bin/sh"] }, "who started it is compared once `/bin/nc` runs"],
])("prevent for the denied program %j: warning %s", (entry, words) => {
  const warnings = (effect: Effect) =>
    warnOfDelivery(create(RuleSchema, { process: { effect, denied: [{ process: "/bin/first" }, entry] } }));
  const found = warnings(Effect.PREVENT);
  expect(found.map(({ field }) => field)).toEqual(words === undefined ? [] : ["process.denied[1]"]);
  expect(found[0]?.message ?? "").toContain(words ?? "");
  expect(warnings(Effect.BLOCK)).toEqual([]);
});
