import { isIP } from "node:net";
import { domainToASCII } from "node:url";
import { IndicatorType } from "#gen/gabion/intel/v1/intel_pb.ts";
import { addressBits, prefixText } from "../matching/address.ts";

/** A value in the one form in which it is stored and looked up, or why it has none. */
export type NormalForm = { readonly value: string } | { readonly fault: string };

const SHA256 = /^[0-9a-f]{64}$/;
const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/;

function normalDomain(text: string): NormalForm {
  const bare = text.trim().replace(/^\*\./, "").replace(/\.$/, "");
  const ascii = domainToASCII(bare.toLowerCase()) || bare.toLowerCase();
  const labels = ascii.split(".");
  const isDomain = ascii.length <= 253 && labels.length >= 2 && labels.every((label) => LABEL.test(label));
  return isDomain ? { value: ascii } : { fault: `\`${text}\` is no domain such as \`evil.example\`` };
}

function normalPrefix(text: string): NormalForm {
  const [address = "", lengthText] = text.trim().split("/");
  if (isIP(address) === 0) return { fault: `\`${text}\` is no address or prefix such as \`192.0.2.0/24\`` };
  const { bits, width } = addressBits(address);
  const length = lengthText === undefined ? width : Number(lengthText);
  if (!Number.isInteger(length) || length < 0 || length > width || lengthText === "") {
    return { fault: `\`${text}\`: the prefix length must be 0 to ${width}` };
  }
  return { value: prefixText(bits, width, length) };
}

/** Brings an indicator's value to its normal form. */
export function normalForm(type: IndicatorType, text: string): NormalForm {
  if (type === IndicatorType.DOMAIN) return normalDomain(text);
  if (type === IndicatorType.PREFIX) return normalPrefix(text);
  const hash = text.trim().toLowerCase();
  return SHA256.test(hash) ? { value: hash } : { fault: `\`${text}\` is no SHA-256 of 64 hex digits` };
}

/** What an object can be, by its form. */
export function guessType(object: string): IndicatorType {
  if (SHA256.test(object.trim().toLowerCase())) return IndicatorType.SHA256;
  return isIP(object.trim().split("/")[0] ?? "") === 0 ? IndicatorType.DOMAIN : IndicatorType.PREFIX;
}

/** Values under which an object may be listed, most exact first: the domains above a name, the prefixes around an address. */
export function candidates(type: IndicatorType, value: string): string[] {
  if (type === IndicatorType.SHA256) return [value];
  if (type === IndicatorType.DOMAIN) {
    const labels = value.split(".");
    return labels.slice(0, -1).map((_, at) => labels.slice(at).join("."));
  }
  const [address = "", lengthText = "0"] = value.split("/");
  const { bits, width } = addressBits(address);
  const length = Number(lengthText);
  return Array.from({ length: length + 1 }, (_, i) => prefixText(bits, width, length - i));
}
