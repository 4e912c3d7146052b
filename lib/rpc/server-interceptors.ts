import type { DescMessage, Message } from "@bufbuild/protobuf";
import { createValidator, type Validator } from "@bufbuild/protovalidate";
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { context, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { identityText } from "../pki/identity.ts";
import type { Logger } from "../telemetry/log.ts";
import { extractTrace } from "../telemetry/propagation.ts";
import { invalidRequest, toConnectError } from "./errors.ts";
import { peerKey } from "./peer.ts";

type Next = Parameters<Interceptor>[0];
type Request = Parameters<Next>[0];

function methodName(request: Request): string {
  return `${request.service.typeName}/${request.method.name}`;
}

/** One span for each call, joined to the caller's trace. A stream's span covers its opening. */
export const traceInterceptor: Interceptor = (next) => (request) => {
  const tracer = trace.getTracer("gabion/rpc");
  const attributes = {
    "rpc.system": "grpc",
    "rpc.service": request.service.typeName,
    "rpc.method": request.method.name,
  };
  const parent = extractTrace(request.header);
  return tracer.startActiveSpan(methodName(request), { kind: SpanKind.SERVER, attributes }, parent, async (span) => {
    try {
      return await context.with(trace.setSpan(parent, span), () => next(request));
    } catch (error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: ConnectError.from(error).rawMessage });
      throw error;
    } finally {
      span.end();
    }
  });
};

/** Logs what failed, and turns it into what leaves the server; what is not the caller's fault with all that is known. */
export function createLogInterceptor(logger: Logger): Interceptor {
  const toKnown = (request: Request, error: unknown): ConnectError => {
    const known = toConnectError(error);
    const peer = identityText(request.contextValues.get(peerKey));
    const fields = { method: methodName(request), peer, code: Code[known.code] };
    const isOurs = known.code === Code.Internal || known.code === Code.Unknown;
    if (isOurs) logger.error({ ...fields, err: known.cause ?? known }, "call failed");
    else logger.debug({ ...fields, reason: known.rawMessage }, "call refused");
    return known;
  };
  async function* mapped(request: Request, messages: AsyncIterable<Message>): AsyncIterable<Message> {
    try {
      yield* messages;
    } catch (error) {
      throw toKnown(request, error);
    }
  }
  return (next) => async (request) => {
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: mapped(request, response.message) as typeof response.message };
    } catch (error) {
      throw toKnown(request, error);
    }
  };
}

/** Ends unary calls that take longer than the bound, also where the caller set no deadline. */
export function createDeadlineInterceptor(timeoutMs: number): Interceptor {
  return (next) => async (request) => {
    if (request.stream) return next(request);
    const expired = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => expired.reject(new ConnectError(`not done within ${timeoutMs} ms`, Code.DeadlineExceeded)),
      timeoutMs,
    );
    try {
      return await Promise.race([next(request), expired.promise]);
    } finally {
      clearTimeout(timer);
    }
  };
}

function check(validator: Validator, schema: DescMessage, message: Message): void {
  const result = validator.validate(schema, message);
  if (result.kind === "valid") return;
  if (result.kind === "error") throw result.error;
  throw invalidRequest(result.violations.map((v) => ({ field: pathText(v.field), message: v.message })));
}

/** Path of a violation as people write it: `rule.process.denied[2].process`. */
export function pathText(path: readonly { kind: string }[]): string {
  let text = "";
  for (const part of path as readonly ({ kind: string } & Record<string, unknown>)[]) {
    if (part.kind === "list_sub") text += `[${part["index"]}]`;
    else if (part.kind === "map_sub") text += `[${JSON.stringify(String(part["key"]))}]`;
    else text += `${text === "" ? "" : "."}${String(part["name"] ?? part["typeName"] ?? "")}`;
  }
  return text;
}

async function* checked(
  validator: Validator,
  schema: DescMessage,
  messages: AsyncIterable<Message>,
): AsyncIterable<Message> {
  for await (const message of messages) {
    check(validator, schema, message);
    yield message;
  }
}

/** Checks each message against the rules in its proto. */
export function createValidationInterceptor(): Interceptor {
  const validator = createValidator();
  return (next) => (request) => {
    if (!request.stream) {
      check(validator, request.method.input, request.message);
      return next(request);
    }
    return next({
      ...request,
      message: checked(validator, request.method.input, request.message) as typeof request.message,
    });
  };
}
