/**
 * The parameters of a tool that travel in headers as well: `x-mcp-header` in its input schema.
 * Source: 2026-07-28 basic/transports/streamable-http, Custom Headers from Tool Parameters.
 */
import { canonicalJson } from './canonical-json.ts';

export const paramHeaderTypes = ['string', 'integer', 'boolean'] as const;
export type ParamHeaderType = (typeof paramHeaderTypes)[number];

export interface ParamHeader {
  /** As the schema writes it; the header is `Mcp-Param-<name>`. */
  readonly name: string;
  /** Of the argument, from the top of `arguments`. */
  readonly path: readonly string[];
  readonly type: ParamHeaderType;
}

/** What may follow `Mcp-Param-` in the name of a header. */
export const paramHeaderName = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/;
/** As deep as JSON may be nested at all. */
const depthMax = 128;
/** Headers are bounded, so is what one tool may ask for. */
export const paramHeadersMax = 64;
const annotation = 'x-mcp-header';

class Invalid extends Error {}

/**
 * The headers that a tool's input schema asks for; undefined where an annotation breaks the rules (not a token, used
 * twice, on a value that is no string, integer or boolean, or not reached through `properties` alone): such a tool must
 * not be offered to a client of 2026-07-28, nor by one.
 */
export function paramHeaders(inputSchema: unknown): readonly ParamHeader[] | undefined {
  const found: ParamHeader[] = [];
  try {
    collect(inputSchema, [], true, found, 0);
  } catch (error) {
    if (error instanceof Invalid) return undefined;
    throw error;
  }
  const names = new Set(found.map(({ name }) => name.toLowerCase()));
  return names.size === found.length && found.length <= paramHeadersMax ? found : undefined;
}

/**
 * The maps of a tool's definitions that differ, in an order of their own; undefined where none names a header. One that
 * breaks the rules, which is offered to nobody, names none.
 * @param definitions of one tool; anything that is no object names none
 */
export function paramHeaderMaps(definitions: readonly unknown[]): (readonly ParamHeader[])[] | undefined {
  const maps = new Map<string, readonly ParamHeader[]>();
  for (const definition of definitions) {
    const headers = (isObject(definition) ? paramHeaders(definition['inputSchema']) : undefined) ?? [];
    maps.set(canonicalJson(headers), headers);
  }
  const different = [...maps].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, headers]) => headers);
  return different.some((headers) => headers.length > 0) ? different : undefined;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Members of a schema whose value is data and not a schema. */
const dataMembers = new Set(['const', 'default', 'enum', 'examples', 'required', annotation]);

function collect(
  schema: unknown,
  path: readonly string[],
  reachable: boolean,
  found: ParamHeader[],
  depth: number,
): void {
  if (depth > depthMax) return;
  if (Array.isArray(schema)) {
    for (const entry of schema) collect(entry, path, false, found, depth + 1);
    return;
  }
  if (!isObject(schema)) return;
  if (Object.hasOwn(schema, annotation)) found.push(headerOf(schema, path, reachable));
  for (const [member, value] of Object.entries(schema)) {
    if (dataMembers.has(member)) continue;
    if (member !== 'properties' || !isObject(value)) {
      collect(value, path, false, found, depth + 1);
      continue;
    }
    for (const [name, property] of Object.entries(value)) {
      collect(property, [...path, name], reachable, found, depth + 1);
    }
  }
}

function headerOf(schema: Readonly<Record<string, unknown>>, path: readonly string[], reachable: boolean): ParamHeader {
  const { [annotation]: name, type } = schema;
  const known = paramHeaderTypes.find((candidate) => candidate === type);
  if (
    !reachable ||
    path.length === 0 ||
    typeof name !== 'string' ||
    !paramHeaderName.test(name) ||
    known === undefined
  ) {
    throw new Invalid();
  }
  return { name, path, type: known };
}
