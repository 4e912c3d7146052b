import { type DescMessage, fromJsonString, type MessageShape, toJsonString } from "@bufbuild/protobuf";
import type { Codec, Fields } from "./port.ts";

/** Stores messages as their JSON form: readable, and tolerant of fields that a later version adds. */
export function protoCodec<Desc extends DescMessage>(
  schema: Desc,
  fields: (message: MessageShape<Desc>) => Fields,
): Codec<MessageShape<Desc>> {
  return {
    encode: (message) => toJsonString(schema, message),
    decode: (body) => fromJsonString(schema, body, { ignoreUnknownFields: true }),
    fields,
  };
}

/** Stores plain values as JSON. */
export function jsonCodec<T>(fields: (value: T) => Fields): Codec<T> {
  return { encode: (value) => JSON.stringify(value), decode: (body) => JSON.parse(body) as T, fields };
}
