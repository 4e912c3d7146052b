import { create } from "@bufbuild/protobuf";
import { type RollOut, RollOutSchema, type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";

/** A roll-out as its author wrote it. */
export function plainRollOut({ percents, dwell, maxStops, maxRestarts }: RollOut): RollOut {
  return create(RollOutSchema, { percents, maxStops, maxRestarts, ...(dwell ? { dwell } : {}) });
}

/** A rule as its author wrote it: without what the service sets. */
export function plainRule(rule: Rule): Rule {
  const { createTime: _, updateTime: __, rollOut, ...rest } = rule;
  const plain = { ...rest, ruleId: "", revision: 0n, etag: "", updateBy: "" };
  return create(RuleSchema, { ...plain, ...(rollOut ? { rollOut: plainRollOut(rollOut) } : {}) });
}
