import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { type Identity, identityText, OPERATOR_ROLES, type OperatorRole } from "../pki/identity.ts";
import { peerKey } from "./peer.ts";

/** Who may call a method: anyone, operators from a role upwards, nodes, services. */
export interface Access {
  readonly anyone?: true;
  readonly operator?: OperatorRole;
  readonly node?: true;
  readonly service?: true;
}

/** Access by full method name, `gabion.rule.v1.RuleService/CreateRule`. A method that is not listed is closed. */
export type RoleTable = Readonly<Record<string, Access>>;

function isAllowed(access: Access | undefined, peer: Identity): boolean {
  if (access?.anyone) return true;
  if (peer.kind === "node") return access?.node === true;
  if (peer.kind === "service") return access?.service === true;
  if (peer.kind !== "operator" || access?.operator === undefined) return false;
  return OPERATOR_ROLES.indexOf(peer.role) >= OPERATOR_ROLES.indexOf(access.operator);
}

/** Refuses calls that the table does not open to the caller. */
export function createRoleInterceptor(table: RoleTable): Interceptor {
  return (next) => (request) => {
    const method = `${request.service.typeName}/${request.method.name}`;
    const peer = request.contextValues.get(peerKey);
    if (isAllowed(table[method], peer)) return next(request);
    if (peer.kind === "anonymous") {
      throw new ConnectError("a client certificate of this installation is needed", Code.Unauthenticated);
    }
    const role = peer.kind === "operator" ? ` with role ${peer.role}` : "";
    throw new ConnectError(`${identityText(peer)}${role} may not call ${method}`, Code.PermissionDenied);
  };
}
