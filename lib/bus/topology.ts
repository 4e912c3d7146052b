/**
 * What goes over the bus and who may touch it. Names stand here once; permissions in the server's configuration are
 * made from them.
 */
export const POLICY_BUCKET = "gabion_policy";

/** Key of the rule set's head in the policy bucket, which is also the subject that its envelope must name. */
export const RULESET_KEY = "ruleset.current";

/** Key of the head of the bad files. */
export const INTEL_SET_KEY = "intel.set";

const MODEL_PREFIX = "models.";

/** Key of a model's head. */
export function modelKeyOnBus(modelKey: string): string {
  return `${MODEL_PREFIX}${modelKey}`;
}

/** The model that a key on the bus is about; undefined where it is about something else. */
export function modelOfBusKey(key: string): string | undefined {
  return key.startsWith(MODEL_PREFIX) ? key.slice(MODEL_PREFIX.length) : undefined;
}

/** Subject on which a write to the policy bucket travels: subscribing to it tells of each change, and needs no rights. */
export const POLICY_SUBJECTS = `$KV.${POLICY_BUCKET}.>`;

/** The bucket's key of such a subject. */
export function policyKey(subject: string): string {
  return subject.slice(`$KV.${POLICY_BUCKET}.`.length);
}

/** Subject of the verdicts for a node. */
export function verdictSubject(nodeId: string): string {
  return `verdicts.${nodeId}`;
}
