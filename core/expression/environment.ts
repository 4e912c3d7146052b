import { type CelEnv, CelScalar, celEnv, celMethod, objectType } from "@bufbuild/cel";
import type { Message } from "@bufbuild/protobuf";
import { create, createRegistry } from "@bufbuild/protobuf";
import type { ReflectMessage } from "@bufbuild/protobuf/reflect";
import {
  ContentStateSchema,
  EventSchema,
  type FileChange,
  FileChangeSchema,
  FileOperationSchema,
  type NetworkConnect,
  NetworkConnectSchema,
  type ProcessExec,
  ProcessExecSchema,
  TransportSchema,
} from "#gen/gabion/event/v1/event_pb.ts";
import { ProcessEntrySchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { isWithin, mappedAddress, parsePrefix } from "../matching/address.ts";
import { compilePattern } from "../matching/pattern.ts";
import { toProcessEvent } from "../policy/process-event.ts";
import { compileProcessList } from "../policy/process-list.ts";

/** Compiled arguments kept; expressions have few, and they are written out in them. */
const COMPILED_MAX = 10_000;

/** Remembers what was made of a text: methods are given the same one each time. */
function remembered<T>(make: (text: string) => T): (text: string) => T {
  const known = new Map<string, T>();
  return (text) => {
    const found = known.get(text);
    if (found !== undefined) return found;
    if (known.size >= COMPILED_MAX) known.clear();
    const made = make(text);
    known.set(text, made);
    return made;
  };
}

function messageOf<M extends Message>(self: unknown): M {
  return (self as ReflectMessage).message as M;
}

function methods() {
  const list = remembered((process) => compileProcessList([create(ProcessEntrySchema, { process })]));
  const prefix = remembered((text) => parsePrefix(text));
  const pattern = remembered((text) => compilePattern(text));
  const method = (
    target: Parameters<typeof objectType>[0],
    name: string,
    is: (self: unknown, text: string) => boolean,
  ) =>
    celMethod(name, objectType(target), [CelScalar.STRING], CelScalar.BOOL, function (text) {
      return is(this, text);
    });
  return [
    // As the entries of a rule's process lists.
    method(
      ProcessExecSchema,
      "runs",
      (self, text) => list(text).find(toProcessEvent(messageOf<ProcessExec>(self))) !== undefined,
    ),
    // As the addresses of a rule's network lists.
    method(NetworkConnectSchema, "reaches", (self, text) => {
      const within = prefix(text);
      return within !== undefined && isWithin(within, mappedAddress(messageOf<NetworkConnect>(self).address));
    }),
    // As the paths of a rule's filesystem lists.
    method(FileChangeSchema, "touches", (self, text) => {
      const { path, newPath } = messageOf<FileChange>(self);
      return pattern(text).matches(path) || (newPath !== "" && pattern(text).matches(newPath));
    }),
  ];
}

/** What expressions are run in: `event` and `container`, and the methods that match as lists do. */
export function createEnvironment(): CelEnv {
  return celEnv({
    registry: createRegistry(EventSchema, ContainerSchema),
    variables: { event: objectType(EventSchema), container: objectType(ContainerSchema) },
    funcs: methods(),
  });
}

/** Numbers of enumerations by their names, for example `FILE_OPERATION_DELETE`. */
export function enumNumbers(): ReadonlyMap<string, number> {
  const enums = [FileOperationSchema, TransportSchema, ContentStateSchema];
  return new Map(enums.flatMap(({ values }) => values.map(({ name, number }) => [name, number] as const)));
}
