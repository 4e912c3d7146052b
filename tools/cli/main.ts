import { Code, ConnectError } from "@connectrpc/connect";
import { Command, Option } from "commander";
import { printable } from "#core/text/escape.ts";
import { BadRequestSchema } from "#gen/google/rpc/error_details_pb.ts";
import { MissingCredentialsError } from "#lib/pki/credentials.ts";
import { gabionVersion } from "#lib/service/version.ts";
import { addAuditCommands } from "./audits.ts";
import { CommandError } from "./connection.ts";
import { addDemoCommand } from "./demo.ts";
import { addExplainCommand } from "./explain.ts";
import { addIntelCommands } from "./intel.ts";
import { addModelOperations } from "./model-operations.ts";
import { addModelCommands } from "./models.ts";
import { addNodeCommands } from "./nodes.ts";
import { addProcessCommands } from "./processes.ts";
import { addRuleInsight } from "./rule-insight.ts";
import { addRuleSetCommands } from "./rule-sets.ts";
import { addRuleCommands } from "./rules.ts";
import { addSensorCommands } from "./sensor.ts";

/** Exit statuses: 1 for what went wrong, 2 for what the user can put right, as in `sysexits` of old. */
const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

const USER_CODES: readonly Code[] = [
  Code.InvalidArgument,
  Code.NotFound,
  Code.AlreadyExists,
  Code.PermissionDenied,
  Code.Unauthenticated,
  Code.Aborted,
  Code.FailedPrecondition,
];

function createProgram(): Command {
  const program = new Command("gabion")
    .description("runtime defense for containers")
    .version(gabionVersion())
    .option("--data <folder>", "data folder of the installation", process.env["GABION_DATA"] ?? "data")
    .option("--operator <identity>", "operator that calls, by its certificate", "operator/local/admin")
    .addOption(new Option("-o, --output <format>", "form of answers").choices(["table", "json"]).default("table"))
    .showHelpAfterError("(see --help)")
    .exitOverride();
  addProcessCommands(program);
  addDemoCommand(program);
  addModelOperations(addModelCommands(program));
  const rules = program.command("rules").description("what administrators allow, deny and ask for");
  addRuleCommands(rules);
  addRuleSetCommands(rules);
  addRuleInsight(rules);
  addExplainCommand(program);
  addAuditCommands(program);
  addNodeCommands(program);
  addIntelCommands(program);
  addSensorCommands(program);
  return program;
}

/** One message for a person, with every fault on a line of its own. */
function explain(error: ConnectError): string {
  const faults = error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
  if (faults.length > 0)
    return ["the request was refused:", ...faults.map((f) => `  ${f.field}: ${f.description}`)].join("\n");
  if (error.code === Code.Unavailable)
    return `the service does not answer: ${error.rawMessage}; is Gabion running (\`npm start\`)?`;
  return error.rawMessage;
}

function fail(error: unknown): void {
  const isCommander =
    error instanceof Error && "exitCode" in error && "code" in error && String(error.code).startsWith("commander.");
  if (isCommander) {
    process.exitCode = (error as unknown as { exitCode: number }).exitCode === 0 ? 0 : EXIT_USAGE;
    return;
  }
  const known = error instanceof CommandError || error instanceof MissingCredentialsError;
  const connect = known ? undefined : ConnectError.from(error);
  const message = connect ? explain(connect) : (error as Error).message;
  process.stderr.write(`gabion: ${printable(message.replaceAll("\n", "\u0001")).replaceAll("\\x01", "\n")}\n`);
  process.exitCode = known || (connect && USER_CODES.includes(connect.code)) ? EXIT_USAGE : EXIT_FAILED;
}

process.once("SIGPIPE", () => process.exit(EXIT_FAILED));
try {
  await createProgram().parseAsync();
} catch (error) {
  fail(error);
}
