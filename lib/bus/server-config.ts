import { inboxPrefix } from "./connection.ts";
import { POLICY_BUCKET, POLICY_SUBJECTS, verdictSubject } from "./topology.ts";

/** One user of the bus: an identity and its public nkey. */
export interface BusUser {
  /** `service/model`, `node/worker-3` … */
  readonly identity: string;
  readonly publicKey: string;
}

interface Permissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/** What a publisher of policy needs: the key-value bucket and nothing of the verdicts. */
function policyPublisher(keys: string): Permissions {
  const stream = `KV_${POLICY_BUCKET}`;
  return {
    publish: [
      `$KV.${POLICY_BUCKET}.${keys}`,
      "$JS.API.INFO",
      `$JS.API.STREAM.CREATE.${stream}`,
      `$JS.API.STREAM.UPDATE.${stream}`,
      `$JS.API.STREAM.INFO.${stream}`,
      `$JS.API.DIRECT.GET.${stream}.>`,
      `$JS.API.DIRECT.GET.${stream}`,
      `$JS.API.STREAM.MSG.GET.${stream}`,
    ],
    subscribe: [],
  };
}

const PERMISSIONS: Record<string, Permissions> = {
  "service/model": policyPublisher("models.>"),
  "service/rule": policyPublisher("ruleset.>"),
  "service/intel": policyPublisher("intel.>"),
  "service/audit": { publish: ["verdicts.>"], subscribe: [] },
};

/**
 * A node hears of policy and of its own verdicts, and says nothing at all: whoever may make a request may name any
 * subject for the answer, and the server does not check that one against the permissions.
 */
function nodePermissions(nodeId: string): Permissions {
  return { publish: [], subscribe: [POLICY_SUBJECTS, verdictSubject(nodeId)] };
}

function permissionsOf(identity: string): Permissions {
  const known = PERMISSIONS[identity];
  if (known) return known;
  if (identity.startsWith("node/")) return nodePermissions(identity.slice(5));
  throw new Error(`\`${identity}\` has no place on the bus`);
}

function userBlock({ identity, publicKey }: BusUser): string {
  const { publish, subscribe } = permissionsOf(identity);
  const inbox = `${inboxPrefix(identity)}.>`;
  const permissions = {
    publish: publish.length > 0 ? { allow: publish } : { deny: [">"] },
    subscribe: { allow: publish.length > 0 ? [inbox, ...subscribe] : subscribe },
  };
  return `    { nkey: ${publicKey}, permissions: ${JSON.stringify(permissions)} }`;
}

export interface BusServerFiles {
  readonly host: string;
  readonly port: number;
  readonly storeDirectory: string;
  readonly certificateFile: string;
  readonly keyFile: string;
  readonly authorityFile: string;
}

/** Configuration of nats-server: TLS with client certificates, one user for each identity, JetStream on disk. */
export function busServerConfig(files: BusServerFiles, users: readonly BusUser[]): string {
  return `# Made by Gabion; changes are overwritten.
host: "${files.host}"
port: ${files.port}
server_name: "gabion"
max_payload: 2MB
jetstream {
  store_dir: "${files.storeDirectory}"
  max_memory_store: 64MB
  max_file_store: 4GB
}
tls {
  cert_file: "${files.certificateFile}"
  key_file: "${files.keyFile}"
  ca_file: "${files.authorityFile}"
  verify: true
  timeout: 5
}
authorization {
  users: [
${users.map(userBlock).join("\n")}
  ]
}
`;
}
