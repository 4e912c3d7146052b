import type { RoleTable } from "./roles.ts";

const view = { operator: "viewer", service: true } as const;
const viewOrNode = { operator: "viewer", service: true, node: true } as const;
const change = { operator: "operator" } as const;
const administer = { operator: "admin" } as const;
const node = { node: true } as const;

/** The one table that says who may call what. */
export const ROLE_TABLE: RoleTable = {
  "gabion.model.v1.ModelService/Observe": node,
  "gabion.model.v1.ModelService/EnsureModel": node,
  "gabion.model.v1.ModelService/ListModels": view,
  "gabion.model.v1.ModelService/GetModel": viewOrNode,
  "gabion.model.v1.ModelService/WatchModels": view,
  "gabion.model.v1.ModelService/RelearnModel": change,
  "gabion.model.v1.ModelService/StartManualLearning": change,
  "gabion.model.v1.ModelService/StopManualLearning": change,
  "gabion.model.v1.ModelService/RemoveModelItem": change,
  "gabion.model.v1.ModelService/AcceptModelItems": change,
  "gabion.model.v1.ModelService/UnfoldModelItem": change,
  "gabion.model.v1.ModelService/PinModelItem": change,
  "gabion.model.v1.ModelService/ArchiveModel": change,
  "gabion.model.v1.ModelService/ListModelHistory": view,
  "gabion.model.v1.ModelService/ExportModel": view,
  "gabion.model.v1.ModelService/ImportModel": change,
  "gabion.model.v1.ModelService/DiffModels": view,
  "gabion.model.v1.ModelService/InheritModel": change,
  "gabion.model.v1.ModelService/RenderModelProfile": view,
  "gabion.model.v1.ModelService/BatchChangeModels": change,
  "gabion.model.v1.ModelService/SubmitStaticAnalysis": node,
  "gabion.fleet.v1.FleetService/ListNodes": view,
  "gabion.fleet.v1.FleetService/GetNode": view,
  "gabion.fleet.v1.FleetService/ListContainers": view,
  "gabion.rule.v1.RuleService/ListRules": view,
  "gabion.rule.v1.RuleService/GetRule": view,
  "gabion.rule.v1.RuleService/GetRuleset": viewOrNode,
  "gabion.rule.v1.RuleService/ListRuleChanges": view,
  "gabion.rule.v1.RuleService/ResolveRule": view,
  "gabion.rule.v1.RuleService/CreateRule": administer,
  "gabion.rule.v1.RuleService/UpdateRule": administer,
  "gabion.rule.v1.RuleService/MoveRule": administer,
  "gabion.rule.v1.RuleService/DeleteRule": administer,
  "gabion.intel.v1.IntelService/PutIndicators": administer,
  "gabion.intel.v1.IntelService/DeleteIndicator": administer,
  "gabion.intel.v1.IntelService/ListIndicators": view,
  "gabion.intel.v1.IntelService/LookUpIndicator": viewOrNode,
  "gabion.intel.v1.IntelService/GetFileSet": viewOrNode,
  "gabion.audit.v1.AuditService/SubmitAudits": node,
  "gabion.audit.v1.AuditService/ListAudits": view,
  "gabion.audit.v1.AuditService/GetAudit": view,
  "gabion.audit.v1.AuditService/WatchAudits": view,
  "gabion.audit.v1.AuditService/IssueVerdict": change,
  "grpc.health.v1.Health/Check": { anyone: true },
  "grpc.health.v1.Health/Watch": { anyone: true },
  "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": viewOrNode,
  "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": viewOrNode,
};
