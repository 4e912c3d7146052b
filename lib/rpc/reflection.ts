import { create, type DescFile, type DescMessage, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ConnectRouter } from "@connectrpc/connect";
import {
  ErrorResponseSchema,
  ExtensionNumberResponseSchema,
  FileDescriptorResponseSchema,
  ListServiceResponseSchema,
  ServerReflection as ReflectionV1,
  type ServerReflectionRequest,
  type ServerReflectionResponse,
  ServerReflectionResponseSchema,
  ServiceResponseSchema,
} from "#gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ReflectionV1Alpha } from "#gen/grpc/reflection/v1alpha/reflection_pb.ts";

interface Index {
  readonly files: ReadonlyMap<string, DescFile>;
  readonly symbols: ReadonlyMap<string, DescFile>;
}

function collectFiles(file: DescFile, files: Map<string, DescFile>): void {
  if (files.has(file.proto.name)) return;
  files.set(file.proto.name, file);
  for (const dependency of file.dependencies) collectFiles(dependency, files);
}

function indexMessage(message: DescMessage, file: DescFile, symbols: Map<string, DescFile>): void {
  symbols.set(message.typeName, file);
  for (const inner of message.nestedMessages) indexMessage(inner, file, symbols);
  for (const inner of message.nestedEnums) symbols.set(inner.typeName, file);
}

function buildIndex(services: readonly DescService[]): Index {
  const files = new Map<string, DescFile>();
  const symbols = new Map<string, DescFile>();
  for (const service of services) collectFiles(service.file, files);
  for (const file of files.values()) {
    for (const message of file.messages) indexMessage(message, file, symbols);
    for (const desc of file.enums) symbols.set(desc.typeName, file);
    for (const extension of file.extensions) symbols.set(extension.typeName, file);
    for (const service of file.services) {
      symbols.set(service.typeName, file);
      for (const method of service.methods) symbols.set(`${service.typeName}.${method.name}`, file);
    }
  }
  return { files, symbols };
}

/** A file and all it imports, as clients need them to build its types. */
function serialize(file: DescFile): Uint8Array[] {
  const files = new Map<string, DescFile>();
  collectFiles(file, files);
  return [...files.values()].map((f) => toBinary(FileDescriptorProtoSchema, f.proto));
}

type Answer = ServerReflectionResponse["messageResponse"];

function failed(what: string): Answer {
  const value = create(ErrorResponseSchema, { errorCode: Code.NotFound, errorMessage: `there is no ${what}` });
  return { case: "errorResponse", value };
}

function found(file: DescFile | undefined, what: string): Answer {
  if (!file) return failed(what);
  const value = create(FileDescriptorResponseSchema, { fileDescriptorProto: serialize(file) });
  return { case: "fileDescriptorResponse", value };
}

function describe(index: Index, services: readonly DescService[], request: ServerReflectionRequest): Answer {
  const { messageRequest: asked } = request;
  switch (asked.case) {
    case "listServices": {
      const service = services.map((s) => create(ServiceResponseSchema, { name: s.typeName }));
      return { case: "listServicesResponse", value: create(ListServiceResponseSchema, { service }) };
    }
    case "fileByFilename":
      return found(index.files.get(asked.value), `file \`${asked.value}\``);
    case "fileContainingSymbol":
      return found(index.symbols.get(asked.value), `symbol \`${asked.value}\``);
    case "allExtensionNumbersOfType": {
      const value = create(ExtensionNumberResponseSchema, { baseTypeName: asked.value });
      return { case: "allExtensionNumbersResponse", value };
    }
    default:
      return failed("such extension");
  }
}

/** Standard reflection in both versions that clients ask for. */
export function registerReflection(router: ConnectRouter, services: readonly DescService[]): void {
  const all = [...services, ReflectionV1, ReflectionV1Alpha];
  const index = buildIndex(all);
  async function* serverReflectionInfo(
    requests: AsyncIterable<ServerReflectionRequest>,
  ): AsyncIterable<ServerReflectionResponse> {
    for await (const request of requests) {
      yield create(ServerReflectionResponseSchema, {
        validHost: request.host,
        originalRequest: request,
        messageResponse: describe(index, all, request),
      });
    }
  }
  router.service(ReflectionV1, { serverReflectionInfo });
  // The two versions have the same messages under other names.
  router.service(ReflectionV1Alpha, { serverReflectionInfo: serverReflectionInfo as never });
}
