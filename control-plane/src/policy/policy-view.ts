import {
  type CompiledGrant,
  compileGrant,
  documentSchema,
  type PrincipalRecord,
  principalShard,
  selectorMatches,
  ServerDefinitions,
  type ServerDocument,
} from '@sallyport/schema';
import type { Reader } from '../database/client.ts';
import { compileSnapshot, type ConfigurationRows } from '../fleet/compile-snapshot.ts';
import { readConfiguration } from '../fleet/read-configuration.ts';

/** A server as a node would hold it. */
export interface ServerView {
  readonly document: ServerDocument;
  readonly definitions: ServerDefinitions;
  /** Its own grants, and those on servers with its labels. */
  readonly grants: readonly CompiledGrant[];
}

/** The part of the configuration that answers a question about access. */
export interface PolicyView {
  /** By id; without those that are not served, or cannot be published. */
  readonly servers: ReadonlyMap<string, ServerView>;
  readonly groupNames: ReadonlyMap<string, string>;
  readonly lifecycles: ReadonlyMap<string, string>;
}

/** Grants that have ended are read too: that they have is what an explanation says. */
const everMs = 0;

const parse = (body: string) => documentSchema.parse(JSON.parse(body));

function documentsOf(rows: ConfigurationRows) {
  return [...compileSnapshot(rows).values()].flatMap(({ documents }) => documents.map(({ body }) => parse(body)));
}

/**
 * Reads what nodes would be sent of these servers, by the same code that compiles it for them, so that an explanation
 * is what a node decides. Reads rows as `tx` sees them: within a dry run, as they would be.
 */
export async function readPolicy(tx: Reader, serverIds: readonly string[]): Promise<PolicyView> {
  const access = documentsOf(await readConfiguration(tx, { serverIds: [], shards: [], access: true }, everMs));
  const rows = await readConfiguration(tx, { serverIds, shards: [] }, everMs);
  const own = documentsOf(rows);
  const groups = access.find((document) => document.kind === 'groups');
  const labelGrants = access.filter((document) => document.kind === 'labelGrants');
  const servers = new Map<string, ServerView>();
  for (const document of own) {
    if (document.kind !== 'server') continue;
    const entries = own.flatMap((other) =>
      other.kind === 'grants' && other.serverId === document.id ? other.grants : [],
    );
    const selecting = labelGrants.filter(({ selector }) => selectorMatches(selector, document.labels));
    servers.set(document.id, {
      document,
      definitions: new ServerDefinitions(document.definitions),
      grants: [...entries, ...selecting.flatMap(({ grants }) => grants)].map(compileGrant),
    });
  }
  return {
    servers,
    groupNames: new Map(groups?.groups.map(({ id, name }) => [id, name])),
    lifecycles: new Map(rows.servers.map((row) => [row.id, row.lifecycle])),
  };
}

/** Principals as nodes would hold them, by id; without those that do not exist. */
export async function readPrincipalRecords(
  tx: Reader,
  ids: readonly string[],
): Promise<ReadonlyMap<string, PrincipalRecord>> {
  const wanted = new Set(ids);
  const shards = [...new Set(ids.map(principalShard))];
  const documents = documentsOf(await readConfiguration(tx, { serverIds: [], shards }, everMs));
  const records = documents.flatMap((document) => (document.kind === 'principals' ? document.principals : []));
  return new Map(records.filter(({ id }) => wanted.has(id)).map((record) => [record.id, record]));
}
