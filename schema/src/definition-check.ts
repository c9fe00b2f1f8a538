import { canonicalJson } from './canonical-json.ts';
import { instructionsName, serverInfoName } from './definition-digest.ts';
import type { DefinitionKind, ListedKind } from './snapshot.ts';

export const definitionBytesMax = 256 * 1024;
export const definitionDepthMax = 64;
/** Objects and arrays in one definition; bounds the subschemas a validator has to compile. */
export const definitionNodesMax = 10_000;
export const definitionNameLengthMax = 2_048;

const nameMember = {
  tool: 'name',
  prompt: 'name',
  resource: 'uri',
  resourceTemplate: 'uriTemplate',
  view: 'uri',
} as const satisfies Record<ListedKind | 'view', string>;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Iterative, since a hostile nesting would overflow the stack of a recursive walk, canonicalJson's too. */
function shapeProblem(raw: object): string | undefined {
  const open: { readonly node: object; readonly depth: number }[] = [{ node: raw, depth: 1 }];
  let nodes = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    nodes += 1;
    if (next.depth > definitionDepthMax) return `is nested deeper than ${definitionDepthMax}`;
    if (nodes > definitionNodesMax) return `has more than ${definitionNodesMax} objects and arrays`;
    for (const child of Object.values(next.node)) {
      if (typeof child === 'object' && child !== null) open.push({ node: child, depth: next.depth + 1 });
    }
  }
  return undefined;
}

function instructionsProblem(raw: Readonly<Record<string, unknown>>): string | undefined {
  return typeof raw['instructions'] === 'string' ? undefined : 'has no text';
}

// oxlint-disable-next-line no-control-regex
const controlCharacter = /[\u0000-\u001f\u007f]/;

function nameProblem(kind: ListedKind | 'view', name: unknown): string | undefined {
  const member = nameMember[kind];
  if (typeof name !== 'string' || name === '') return `has no ${member}`;
  if (name.length > definitionNameLengthMax)
    return `has a ${member} of more than ${definitionNameLengthMax} characters`;
  if (!name.isWellFormed() || controlCharacter.test(name)) return `has a ${member} with control or broken characters`;
  return undefined;
}

const headerToken = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/;
const headerTypes = new Set<unknown>(['string', 'integer', 'boolean']);

interface HeaderPlace {
  readonly node: unknown;
  /** Only through `properties` from the root, so the value stands at one known place of the arguments. */
  readonly reachable: boolean;
  readonly root: boolean;
}

function headerChildren(node: Record<string, unknown>, reachable: boolean): readonly HeaderPlace[] {
  return Object.entries(node).flatMap(([key, value]): readonly HeaderPlace[] => {
    if (key === 'properties' && isObject(value)) {
      return Object.values(value).map((child) => ({ node: child, reachable, root: false }));
    }
    // Data, not schemas: a default may well have a member that is called like the keyword.
    if (key === 'default' || key === 'const' || key === 'enum' || key === 'examples') return [];
    if (Array.isArray(value)) return value.map((child: unknown) => ({ node: child, reachable: false, root: false }));
    return isObject(value) ? [{ node: value, reachable: false, root: false }] : [];
  });
}

function headerProblem(node: Record<string, unknown>, place: HeaderPlace, seen: Set<string>): string | undefined {
  const header = node['x-mcp-header'];
  if (header === undefined) return undefined;
  if (typeof header !== 'string' || !headerToken.test(header)) return 'has an x-mcp-header that is no HTTP token';
  if (!place.reachable || place.root) return `has x-mcp-header ${header} at a place other than a chain of properties`;
  if (!headerTypes.has(node['type'])) return `has x-mcp-header ${header} on a type other than string, integer, boolean`;
  if (seen.has(header.toLowerCase())) return `has x-mcp-header ${header} twice`;
  seen.add(header.toLowerCase());
  return undefined;
}

/**
 * What is wrong with the `x-mcp-header` declarations of a tool's input schema: such a tool must not be listed
 * (2026-07-28, transports §Custom headers). Call only on a schema of bounded depth.
 */
function headerDeclarationProblem(inputSchema: unknown): string | undefined {
  const open: HeaderPlace[] = [{ node: inputSchema, reachable: true, root: true }];
  const seen = new Set<string>();
  for (let place = open.pop(); place !== undefined; place = open.pop()) {
    const { node } = place;
    if (!isObject(node)) {
      if (Array.isArray(node))
        open.push(...node.map((child: unknown) => ({ node: child, reachable: false, root: false })));
      continue;
    }
    const problem = headerProblem(node, place, seen);
    if (problem !== undefined) return problem;
    open.push(...headerChildren(node, place.reachable));
  }
  return undefined;
}

function namedBy(
  kind: DefinitionKind,
  raw: Readonly<Record<string, unknown>>,
): { readonly name: unknown; readonly badName: string | undefined } {
  switch (kind) {
    case 'instructions':
      return { name: instructionsName, badName: instructionsProblem(raw) };
    case 'serverInfo':
      return { name: serverInfoName, badName: undefined };
    default: {
      const name = raw[nameMember[kind]];
      return { name, badName: nameProblem(kind, name) };
    }
  }
}

export type CheckedDefinition =
  | { readonly ok: true; readonly name: string; readonly raw: Readonly<Record<string, unknown>> }
  | { readonly ok: false; readonly name: string | null; readonly problem: string };

/**
 * Whether an object of an upstream's list can be taken into the catalog, and the name it goes by: `name` of a tool or
 * prompt, `uri` of a resource or view, `uriTemplate` of a template; instructions and what a server is have one of ours. Checks bounds and what a gateway must refuse; does not
 * check that a schema compiles, nor judge what the words say.
 */
export function checkDefinition(kind: DefinitionKind, raw: unknown): CheckedDefinition {
  if (!isObject(raw)) return { ok: false, name: null, problem: 'is not an object' };
  const { name, badName } = namedBy(kind, raw);
  if (badName !== undefined || typeof name !== 'string') return { ok: false, name: null, problem: badName ?? '' };
  const bad = (problem: string): CheckedDefinition => ({ ok: false, name, problem });
  const shape = shapeProblem(raw);
  if (shape !== undefined) return bad(shape);
  if (Buffer.byteLength(canonicalJson(raw)) > definitionBytesMax)
    return bad(`is larger than ${definitionBytesMax} bytes`);
  if (kind === 'tool') {
    const { inputSchema } = raw;
    if (!isObject(inputSchema) || inputSchema['type'] !== 'object') return bad('has no inputSchema of type object');
    const header = headerDeclarationProblem(inputSchema);
    if (header !== undefined) return bad(header);
  }
  return { ok: true, name, raw };
}
