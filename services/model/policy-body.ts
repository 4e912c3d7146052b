import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { estimateCompleteness } from "#core/model/completeness.ts";
import {
  type Completeness,
  CompletenessSchema,
  type Fact,
  FactSchema,
  ItemStatus,
  ModelPolicySchema,
  ModelPolicySectionSchema,
  ProcessFactSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { factOf } from "./items.ts";
import type { ItemRecord, ModelRecord, SectionRecord } from "./record.ts";

/** How sure a section is, from what it has counted. */
export function completenessOf(section: SectionRecord): Completeness {
  const singletons = Object.values(section.items).filter((item) => item.unitCount === 1).length;
  const estimate = estimateCompleteness(section.unitCount, singletons);
  return create(CompletenessSchema, {
    unitCount: BigInt(section.unitCount),
    singletonCount: singletons,
    lostEventCount: BigInt(section.lostEventCount),
    ...(section.lastNewItemMs > 0 ? { lastNewItemTime: timestampFromMs(section.lastNewItemMs) } : {}),
    ...estimate,
  });
}

/** A fact as agents are given it: a process with all its parents, for rules that ask for them. */
function publishedFact(item: ItemRecord): Fact {
  const fact = factOf(item);
  if (fact.kind.case !== "process") return fact;
  const value = create(ProcessFactSchema, { ...fact.kind.value, parentPaths: [...item.parentPaths] });
  return create(FactSchema, { kind: { case: "process", value } });
}

/** The record with the next policy revision, and the body that agents fetch for it. */
export function withNewPolicy(modelKey: string, record: ModelRecord): ModelRecord {
  const policyRevision = record.policyRevision + 1;
  const policy = create(ModelPolicySchema, {
    modelKey,
    revision: BigInt(policyRevision),
    sections: record.sections.map((section) =>
      create(ModelPolicySectionSchema, {
        section: section.section,
        state: section.life.state,
        completeness: completenessOf(section),
        isFull: section.isFull,
        facts: Object.values(section.items)
          .filter((item) => item.status === ItemStatus.ALLOWED)
          .map(publishedFact),
      }),
    ),
  });
  return { ...record, policyRevision, policy: Buffer.from(toBinary(ModelPolicySchema, policy)).toString("base64") };
}
