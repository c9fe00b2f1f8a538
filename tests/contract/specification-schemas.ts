import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { runInNewContext } from 'node:vm';
import { type ProtocolRevision, protocolRevisions } from '@sallyport/schema';
import { z } from 'zod';

/**
 * The specification's JSON Schema of each protocol revision, taken from the official conformance suite, which carries
 * all but the oldest verbatim and has no other way to reach them than its own bundle.
 */
const bundle = createRequire(import.meta.url).resolve('@modelcontextprotocol/conformance/dist/index.js');

const definition = z.looseObject({
  anyOf: z.array(z.looseObject({ $ref: z.string().optional() })).optional(),
  $ref: z.string().optional(),
  properties: z.record(z.string(), z.unknown()).optional(),
});
const specificationSchema = z.looseObject({
  definitions: z.record(z.string(), definition).optional(),
  $defs: z.record(z.string(), definition).optional(),
});
const method = z.looseObject({ method: z.looseObject({ const: z.string() }) });

/** The object literal that starts at `start`: its braces balance outside of template strings. */
function objectLiteral(text: string, start: number): string {
  let depth = 0;
  for (let at = start; at < text.length; at += 1) {
    const character = text[at];
    if (character === '`') at = closingBackquote(text, at);
    else if (character === '{') depth += 1;
    else if (character === '}') depth -= 1;
    if (depth === 0) return text.slice(start, at + 1);
  }
  throw new Error('the literal does not end');
}

function closingBackquote(text: string, opening: number): number {
  let at = opening + 1;
  while (text[at] !== '`') at += text[at] === '\\' ? 2 : 1;
  return at;
}

function variablesByRevision(text: string): ReadonlyMap<ProtocolRevision, string> {
  const table = /\{"2025-03-26":([\w$]+),"2025-06-18":([\w$]+),"2025-11-25":([\w$]+),\[[\w$]+\]:([\w$]+)\}/.exec(text);
  if (table === null) throw new Error('the suite no longer has one table of its schemas');
  const names = table.slice(1);
  const carried = [...protocolRevisions].filter((revision) => revision !== '2024-11-05').sort();
  return new Map(carried.map((revision, index) => [revision, names[index] ?? '']));
}

export interface ClientMethods {
  readonly requests: readonly string[];
  readonly notifications: readonly string[];
}

function methodsOf(definitions: Readonly<Record<string, z.infer<typeof definition>>>, union: string): string[] {
  const { anyOf, $ref } = definitions[union] ?? {};
  const references = [...(anyOf ?? []).map((entry) => entry.$ref), $ref].filter((reference) => reference !== undefined);
  if (references.length === 0 && definitions[union]?.properties !== undefined) references.push(union);
  return references
    .map((reference) => method.parse(definitions[reference.split('/').at(-1) ?? '']?.properties).method.const)
    .sort();
}

/** Every method a client may send, by revision, as the specification's `ClientRequest` and `ClientNotification` say. */
export function clientMethodsOfSpecification(): ReadonlyMap<ProtocolRevision, ClientMethods> {
  const text = readFileSync(bundle, 'utf8');
  const result = new Map<ProtocolRevision, ClientMethods>();
  for (const [revision, variable] of variablesByRevision(text)) {
    const start = text.indexOf(`${variable}={$schema:`) + variable.length + 1;
    const schema = specificationSchema.parse(runInNewContext(`(${objectLiteral(text, start)})`));
    const definitions = schema.$defs ?? schema.definitions ?? {};
    result.set(revision, {
      requests: methodsOf(definitions, 'ClientRequest'),
      notifications: methodsOf(definitions, 'ClientNotification'),
    });
  }
  return result;
}
