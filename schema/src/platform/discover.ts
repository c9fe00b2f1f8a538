import { canonicalJson, sha256 } from '../canonical-json.ts';
import { checkDefinition } from '../definition-check.ts';
import {
  instructionsDefinition,
  instructionsName,
  isViewUri,
  serverInfoDefinition,
  serverInfoName,
  viewDefinition,
} from '../definition-digest.ts';
import { eraOf, legacyRevisions, type ProtocolRevision, protocolRevisions } from '../mcp-methods.ts';
import type { DefinitionKind, UpstreamTransport } from '../snapshot.ts';
import type { DiscoveryResult } from '../sync.ts';
import {
  Attempt,
  connect,
  type Connection,
  discoveryError,
  type DiscoverOptions,
  isRefusal,
  protocolError,
  tryLegacy,
} from './discovery-connection.ts';

export type { DiscoverOptions } from './discovery-connection.ts';

const pagesMax = 100;
const definitionsMax = 5_000;
const definitionsBytesMaxDefault = 16 * 1024 * 1024;
/** Pages of MCP Apps read of one server. */
const viewsMax = 64;
const informationBytesMax = 64 * 1024;
const noteNameLengthMax = 128;
const serverInfoMeta = 'io.modelcontextprotocol/serverInfo';

interface Found {
  readonly kind: DefinitionKind;
  readonly name: string;
  readonly digest: string;
  readonly raw: Record<string, unknown>;
}

const lists = [
  { kind: 'tool', capability: 'tools', method: 'tools/list', member: 'tools' },
  { kind: 'prompt', capability: 'prompts', method: 'prompts/list', member: 'prompts' },
  { kind: 'resource', capability: 'resources', method: 'resources/list', member: 'resources' },
  {
    kind: 'resourceTemplate',
    capability: 'resources',
    method: 'resources/templates/list',
    member: 'resourceTemplates',
  },
] as const;
type List = (typeof lists)[number];

async function* pages(connection: Connection, list: List): AsyncGenerator<readonly unknown[]> {
  const cursors = new Set<string>();
  // An empty string is a valid cursor: only an absent one ends the list.
  let cursor: string | undefined;
  for (let count = 0; count < pagesMax; count++) {
    const result = await connection.request(list.method, cursor === undefined ? {} : { cursor });
    if (result === undefined) return;
    const items = result[list.member];
    if (!Array.isArray(items)) throw protocolError(`${list.method} has no array ${list.member}`);
    yield items;
    const next = result['nextCursor'];
    if (next === undefined || next === null) return;
    if (typeof next !== 'string') throw protocolError(`${list.method} has a nextCursor that is no string`);
    if (cursors.has(next))
      throw protocolError(`${list.method} repeats a cursor`, 'The MCP server repeats a page of its list.');
    cursors.add(next);
    cursor = next;
  }
  throw protocolError(
    `${list.method} has more than ${pagesMax} pages`,
    `The MCP server lists more than ${pagesMax} pages.`,
  );
}

function capabilitiesOf(connection: Connection): Record<string, unknown> {
  const capabilities = connection.greeting['capabilities'];
  return typeof capabilities === 'object' && capabilities !== null && !Array.isArray(capabilities)
    ? { ...capabilities }
    : {};
}

/** The definitions over all connections, each distinct object once: a dual-era upstream may word one differently per era. */
class Collection {
  readonly found: Found[] = [];
  readonly #digests = new Set<string>();
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  add(kind: DefinitionKind, name: string, raw: Readonly<Record<string, unknown>>): void {
    const canonical = canonicalJson(raw);
    const digest = `sha256:${sha256(canonical)}`;
    const key = `${kind} ${name} ${digest}`;
    if (this.#digests.has(key)) return;
    this.#digests.add(key);
    this.#bytes += Buffer.byteLength(canonical);
    if (this.found.length >= definitionsMax || this.#bytes > this.#bytesMax) {
      throw protocolError(
        `more than ${definitionsMax} definitions or ${this.#bytesMax} bytes`,
        'The MCP server defines more than a catalog entry can hold.',
      );
    }
    this.found.push({ kind, name, digest, raw: { ...raw } });
  }
}

/** Each era greets in its own words. An empty text is nothing to pin. */
function collectInstructions(attempt: Attempt, { greeting, protocolRevision }: Connection, into: Collection): void {
  const { instructions } = greeting;
  if (typeof instructions !== 'string' || instructions === '') return;
  const checked = checkDefinition('instructions', instructionsDefinition(instructions));
  if (checked.ok) into.add('instructions', instructionsName, checked.raw);
  else attempt.note(`instructions (${protocolRevision}) ${checked.problem}; left out`);
}

/** What it says that it is, in either era. */
function serverInfoOf({ greeting, protocolRevision }: Connection): Record<string, unknown> | null {
  const isModern = eraOf(protocolRevision) === 'modern';
  return objectOf(isModern ? objectOf(greeting['_meta'])?.[serverInfoMeta] : greeting['serverInfo']);
}

/** A plain name and the number of a version are nothing to pin. */
function collectServerInfo(attempt: Attempt, connection: Connection, into: Collection): void {
  const info = serverInfoOf(connection);
  const raw = info === null ? undefined : serverInfoDefinition(info);
  if (raw === undefined) return;
  const checked = checkDefinition('serverInfo', raw);
  if (checked.ok) into.add('serverInfo', serverInfoName, checked.raw);
  else attempt.note(`serverInfo (${connection.protocolRevision}) ${checked.problem}; left out`);
}

/** URIs of pages that a definition names. */
function viewsNamedBy(kind: DefinitionKind, raw: Readonly<Record<string, unknown>>): string[] {
  if (kind === 'resource') return typeof raw['uri'] === 'string' && isViewUri(raw['uri']) ? [raw['uri']] : [];
  if (kind !== 'tool') return [];
  const meta = objectOf(raw['_meta']);
  const named = [objectOf(meta?.['ui'])?.['resourceUri'], meta?.['ui/resourceUri']];
  return named.filter((uri) => typeof uri === 'string').filter(isViewUri);
}

/** Reads the pages that tools and lists name: what runs in clients is pinned like what models read. */
async function collectViews(
  attempt: Attempt,
  connection: Connection,
  uris: ReadonlySet<string>,
  into: Collection,
): Promise<void> {
  const note = (uri: string, problem: string): void =>
    attempt.note(`view ${uri.slice(0, noteNameLengthMax)} (${connection.protocolRevision}) ${problem}; left out`);
  for (const [at, uri] of [...uris].entries()) {
    if (at >= viewsMax) return note(uri, `is one of more than ${viewsMax}`);
    const result = await connection.request('resources/read', { uri }).catch((error: unknown) => {
      if (isRefusal(error, attempt)) return undefined;
      throw error;
    });
    const checked = checkDefinition('view', viewDefinition(uri, result?.['contents']));
    if (checked.ok) into.add('view', uri, checked.raw);
    else note(uri, 'cannot be read');
  }
}

async function collect(attempt: Attempt, connection: Connection, into: Collection): Promise<void> {
  collectInstructions(attempt, connection, into);
  collectServerInfo(attempt, connection, into);
  const capabilities = capabilitiesOf(connection);
  const views = new Set<string>();
  for (const list of lists) {
    if (capabilities[list.capability] === undefined) continue;
    const names = new Set<string>();
    for await (const items of pages(connection, list)) {
      for (const item of items) {
        const checked = checkDefinition(list.kind, item);
        const name = checked.name?.slice(0, noteNameLengthMax) ?? 'without a name';
        if (!checked.ok)
          attempt.note(`${list.kind} ${name} (${connection.protocolRevision}) ${checked.problem}; left out`);
        else if (names.has(checked.name))
          attempt.note(`${list.kind} ${name} (${connection.protocolRevision}) is listed twice; first kept`);
        else {
          names.add(checked.name);
          into.add(list.kind, checked.name, checked.raw);
          for (const uri of viewsNamedBy(list.kind, checked.raw)) views.add(uri);
        }
      }
    }
  }
  if (capabilities['resources'] !== undefined) await collectViews(attempt, connection, views, into);
}

/** PostgreSQL's and JSON's common ground: no NUL, no lone surrogates, at any depth. Depth is bounded by the caller. */
function storable(value: unknown): unknown {
  if (typeof value === 'string') return value.toWellFormed().replaceAll('\u0000', '\ufffd');
  if (Array.isArray(value)) return value.map(storable);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [storable(key), storable(member)]));
}

function objectOf(value: unknown): Record<string, unknown> | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : null;
}

/** An informational object, or what stands in for it when it is out of bounds. */
function information(
  attempt: Attempt,
  name: string,
  value: Record<string, unknown> | null,
): Record<string, unknown> | null {
  if (value === null) return null;
  let text: string;
  try {
    text = JSON.stringify(value);
  } catch {
    text = '';
  }
  if (text === '' || text.length > informationBytesMax) {
    attempt.note(`${name} is larger than ${informationBytesMax} characters; left out`);
    return null;
  }
  return objectOf(storable(value));
}

function describe(
  attempt: Attempt,
  connection: Connection,
): Omit<DiscoveryResult, 'protocolRevisions' | 'transport' | 'definitions' | 'notes'> {
  const instructions = connection.greeting['instructions'];
  return {
    serverInfo: information(attempt, 'serverInfo', serverInfoOf(connection)),
    capabilities: information(attempt, 'capabilities', capabilitiesOf(connection)) ?? {},
    instructions:
      typeof instructions === 'string' ? String(storable(instructions.slice(0, informationBytesMax))) : null,
  };
}

/** What a modern upstream says it speaks, of what we know. */
function modernRevisionsOf(connection: Connection): readonly ProtocolRevision[] {
  const supported = connection.greeting['supportedVersions'];
  const said: readonly unknown[] = Array.isArray(supported) ? supported : [];
  return protocolRevisions.filter(
    (revision) => eraOf(revision) === 'modern' && (revision === connection.protocolRevision || said.includes(revision)),
  );
}

interface FirstConnection {
  readonly connection: Connection;
  readonly transport: UpstreamTransport;
}

/**
 * Streamable HTTP, the newest revision first; where that is refused, HTTP+SSE (2025-03-26 basic/transports, Backwards
 * Compatibility).
 */
async function connectFirst(attempt: Attempt): Promise<FirstConnection> {
  try {
    return { connection: await connect(attempt, 'auto', protocolRevisions), transport: 'streamableHttp' };
  } catch (error) {
    if (!isRefusal(error, attempt)) throw error;
    const connection = await connect(attempt, 'legacy', legacyRevisions, 'httpSse').catch((second: unknown) => {
      // What the newer transport was told says more, unless the older one was cut short.
      throw attempt.signal.aborted ? second : error;
    });
    return { connection, transport: 'httpSse' };
  }
}

async function discoverWithin(attempt: Attempt): Promise<DiscoveryResult> {
  const collection = new Collection(attempt.options.definitionsBytesMax ?? definitionsBytesMaxDefault);
  const spoken = new Set<ProtocolRevision>();
  const { connection: first, transport } = await connectFirst(attempt);
  let description: ReturnType<typeof describe>;
  try {
    description = describe(attempt, first);
    await collect(attempt, first, collection);
  } finally {
    await first.close();
  }
  const modern = eraOf(first.protocolRevision) === 'modern';
  if (modern) modernRevisionsOf(first).forEach((each) => spoken.add(each));
  else spoken.add(first.protocolRevision);
  let listedLegacy = !modern;
  for (const protocolRevision of legacyRevisions) {
    if (spoken.has(protocolRevision)) continue;
    const connection = await tryLegacy(attempt, protocolRevision, transport);
    if (connection === undefined) continue;
    try {
      spoken.add(protocolRevision);
      if (!listedLegacy) await collect(attempt, connection, collection);
      listedLegacy = true;
    } finally {
      await connection.close();
    }
  }
  return {
    protocolRevisions: protocolRevisions.filter((revision) => spoken.has(revision)),
    transport,
    ...description,
    definitions: collection.found,
    notes: attempt.notes,
  };
}

/**
 * Learns an upstream: its transport, all protocol revisions it speaks (2026-07-28 first, then each older one by its own `initialize`),
 * and its definitions as sent, from every era it speaks; so one name may come with several digests. Entries that
 * `checkDefinition` refuses are left out, each with a note; a list that does not end is an error.
 * Throws AppError UPSTREAM_*; passing trouble never reads as "does not speak this revision".
 */
export async function discoverUpstream(options: DiscoverOptions): Promise<DiscoveryResult> {
  const attempt = new Attempt(options);
  try {
    return await discoverWithin(attempt);
  } catch (error) {
    throw discoveryError(error, attempt);
  } finally {
    attempt.end();
  }
}
