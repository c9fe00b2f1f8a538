import { AppError } from '@sallyport/schema';
import { isObject, type JsonObject } from './envelope.ts';

/** What the engine has and the language library's types do not describe yet (TC39 "JSON.parse source text access"). */
const json = JSON as unknown as {
  rawJSON(text: string): object;
  parse(
    text: string,
    reviver: (this: unknown, key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown;
};

/** Digits that a double surely holds. */
const safeDigits = 15;
const longNumber = /\d{16}|\d\.\d|[eE]/;

/**
 * Parses JSON such that `JSON.stringify` gives every number back with the value it was written with: what a double would
 * round (64-bit integers, long decimals, `1e400`) becomes a raw text. For messages that are taken apart and put together
 * again.
 * @throws SyntaxError
 */
export function parseLossless(text: string): unknown {
  if (!longNumber.test(text)) return JSON.parse(text);
  return json.parse(text, (_key, value, { source }) =>
    typeof value === 'number' && source !== undefined && isRounded(value, source) ? json.rawJSON(source) : value,
  );
}

function isRounded(value: number, source: string): boolean {
  if (!Number.isFinite(value)) return true;
  return String(value) !== source && source.replace(/[eE].*$/, '').replace(/\D/g, '').length > safeDigits;
}

/**
 * One JSON-RPC message of an upstream.
 * @throws AppError UPSTREAM_PROTOCOL where it is no JSON object
 */
export function parseUpstreamMessage(text: string): JsonObject {
  let value: unknown;
  try {
    value = parseLossless(text);
  } catch (cause) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'not JSON', cause });
  }
  if (!isObject(value)) throw new AppError('UPSTREAM_PROTOCOL', { internal: 'not a JSON-RPC message: not an object' });
  return value;
}
