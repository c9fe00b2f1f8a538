import {
  type ConfigDocument,
  type ConfigProblem,
  encodeDocument,
  type Manifest,
  manifestHash,
  parseNetworks,
  PolicySet,
  selectorMatches,
  sha256,
} from '@sallyport/schema';
import { type LabelGrantsPart, type Part, Problems, readPart, type ServerPart } from './compile-part.ts';
import { inSlices, type Slicing } from './in-slices.ts';
import type { Runtime, ServerRuntime } from './runtime.ts';

/** A runtime with what the next build may share: one compiled part per document. */
export interface BuiltConfiguration {
  readonly manifest: Manifest;
  readonly runtime: Runtime;
  readonly parts: ReadonlyMap<string, Part>;
}

export type BuildResult =
  | { readonly ok: true; readonly built: BuiltConfiguration }
  | { readonly ok: false; readonly problems: readonly ConfigProblem[] };

/** Manifests found to be what their hashes say: reckoning it takes longer than everything else about a small change. */
const verified = new WeakSet<Manifest>();

/** Whether a manifest is what its hash says. Does NOT say who made it. */
export function hasItsHash(manifest: Manifest): boolean {
  if (verified.has(manifest)) return true;
  if (manifestHash(manifest.entries) !== manifest.hash) return false;
  verified.add(manifest);
  return true;
}

/** The document hashes that a build of `entries` needs bodies for: what `previous` does not hold compiled. */
export function missingHashes(
  entries: Readonly<Record<string, string>>,
  previous: BuiltConfiguration | undefined,
): ReadonlySet<string> {
  const missing = new Set<string>();
  for (const [key, hash] of Object.entries(entries)) {
    if (previous?.parts.get(key)?.hash !== hash) missing.add(hash);
  }
  return missing;
}

/** Where the text of a document comes from, by its hash; asked only for hashes of `missingHashes`. */
type BodySource = (hash: string) => string | undefined;

/**
 * Builds the runtime of a manifest beside the running one. Strict: a hash that does not match, an unknown field or
 * kind, a dangling reference or a pattern that does not compile refuses the whole configuration, with every problem
 * named. Parts whose document did not change are shared with `previous`, as are indexes none of whose parts changed.
 */
export function buildRuntime(manifest: Manifest, body: BodySource, previous?: BuiltConfiguration): BuildResult {
  const steps = buildSteps(manifest, body, previous);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/**
 * The same while requests are served. Undefined where it was given up: `isWanted` is asked between slices.
 */
export function buildRuntimeInSlices(
  manifest: Manifest,
  body: BodySource,
  previous: BuiltConfiguration | undefined,
  slicing: Slicing,
): Promise<BuildResult | undefined> {
  return inSlices(buildSteps(manifest, body, previous), slicing);
}

/**
 * Yields after each document that is compiled and each part of an index that is made anew. What it costs follows what
 * changed, but for the copies of maps.
 */
function* buildSteps(
  manifest: Manifest,
  body: BodySource,
  previous: BuiltConfiguration | undefined,
): Generator<undefined, BuildResult> {
  const problems = new Problems();
  if (!hasItsHash(manifest)) {
    problems.add('manifest', 'hash', 'does not match the entries');
    return { ok: false, problems: problems.found };
  }
  const parts = new Map(previous?.parts);
  const touched: string[] = [];
  for (const key of parts.keys()) {
    if (Object.hasOwn(manifest.entries, key)) continue;
    parts.delete(key);
    touched.push(key);
  }
  for (const [key, hash] of Object.entries(manifest.entries)) {
    const before = parts.get(key);
    if (before?.hash === hash) continue;
    touched.push(key);
    const part = readPart(key, hash, body(hash), before, problems);
    if (part !== undefined) parts.set(key, part);
    yield;
  }
  if (problems.found.length > 0) return { ok: false, problems: problems.found };
  const limits = parts.get('limits');
  const keys = parts.get('keys');
  const groups = parts.get('groups');
  const oauth = parts.get('oauth');
  const policies = parts.get('policies');
  const webhooks = parts.get('webhooks');
  const payloadKey = parts.get('payloadKey');
  if (limits?.kind !== 'limits') problems.add('limits', '', 'the manifest has no such document');
  if (keys?.kind !== 'keys') problems.add('keys', '', 'the manifest has no such document');
  const servers = yield* indexServers(parts, touched, previous, problems);
  const principals = yield* indexPrincipals(parts, touched, previous, problems);
  if (problems.found.length > 0 || limits?.kind !== 'limits' || keys?.kind !== 'keys') {
    return { ok: false, problems: problems.found };
  }
  const runtime: Runtime = {
    historyId: manifest.history.id,
    revision: manifest.revision,
    serverById: servers.serverById,
    serverBySlug: servers.serverBySlug,
    principalById: principals.principalById,
    apiKeyByHash: principals.apiKeyByHash,
    groupNames: groups?.kind === 'groups' ? groups.names : new Map(),
    limits: limits.document,
    policies: policies?.kind === 'policies' ? policies.policies : noPolicies,
    webhooks: webhooks?.kind === 'webhooks' ? webhooks.webhooks : new Map(),
    payloadKey: payloadKey?.kind === 'payloadKey' ? payloadKey.document : undefined,
    oauth: oauth?.kind === 'oauth' ? oauth.oauth : undefined,
    sealing: keys.sealing,
  };
  return { ok: true, built: { manifest, runtime, parts } };
}

/** Builds straight from documents, as tests and tools have them; throws on a problem. */
export function buildFromDocuments(
  documents: readonly ConfigDocument[],
  options: { readonly historyId?: string; readonly revision?: number; readonly previous?: BuiltConfiguration } = {},
): BuiltConfiguration {
  const encoded = documents.map(encodeDocument);
  const entries = Object.fromEntries(encoded.map(({ key, hash }) => [key, hash]));
  const bodies = new Map(encoded.map(({ hash, body }) => [hash, body]));
  const manifest: Manifest = {
    history: { id: options.historyId ?? 'local', startedAt: 0, signature: '' },
    revision: options.revision ?? 1,
    hash: manifestHash(entries),
    entries,
  };
  const result = buildRuntime(manifest, (hash) => bodies.get(hash), options.previous);
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.built;
}

/** Entries of a map. */
const copiedAtOnce = 1_000;

/** The same while there is none, so that what was found out about servers stays. */
const noPolicies = new PolicySet([]);

/** What stands behind a prefix in those keys that begin with it. */
function namesUnder(prefix: string, keys: readonly string[]): string[] {
  return keys.flatMap((key) => (key.startsWith(prefix) ? key.slice(prefix.length) : []));
}

/** A copy that may be changed; nothing yet where there is none of which. */
function* copied<K, V>(map: ReadonlyMap<K, V> = new Map()): Generator<undefined, Map<K, V>> {
  const copy = new Map<K, V>();
  for (const [key, value] of map) {
    copy.set(key, value);
    if (copy.size % copiedAtOnce === 0) yield;
  }
  return copy;
}

function* indexServers(
  parts: ReadonlyMap<string, Part>,
  touched: readonly string[],
  previous: BuiltConfiguration | undefined,
  problems: Problems,
): Generator<undefined, Pick<Runtime, 'serverById' | 'serverBySlug'>> {
  const isAny = namesUnder('labelGrants/', touched).length > 0;
  const concerned = isAny ? [...touched, ...parts.keys()] : touched;
  const ids = new Set([...namesUnder('server/', concerned), ...namesUnder('grants/', concerned)]);
  if (previous !== undefined && ids.size === 0) return previous.runtime;
  const labelGrants = [...parts.values()].filter((part) => part.kind === 'labelGrants');
  const serverById = yield* copied(previous?.runtime.serverById);
  const serverBySlug = yield* copied(previous?.runtime.serverBySlug);
  // All of them out before one comes in: a slug may have passed from one server to another.
  for (const id of ids) {
    serverBySlug.delete(serverById.get(id)?.document.slug ?? '');
    if (!parts.has(`server/${id}`)) serverById.delete(id);
  }
  for (const id of ids) {
    const key = `server/${id}`;
    const grantsKey = `grants/${id}`;
    const [part, grants] = [parts.get(key), parts.get(grantsKey)];
    if (part?.kind !== 'server') {
      if (grants !== undefined) problems.add(grantsKey, 'serverId', 'names a server that has no document');
      continue;
    }
    const server = assembleServer(part, grants, labelGrants);
    if (serverBySlug.has(part.document.slug)) problems.add(key, 'slug', 'is used by two servers');
    serverBySlug.set(part.document.slug, server);
    serverById.set(id, server);
    yield;
  }
  return { serverById, serverBySlug };
}

function assembleServer(
  part: ServerPart & { readonly hash: string },
  own: Part | undefined,
  labelGrants: readonly (LabelGrantsPart & { readonly hash: string })[],
): ServerRuntime {
  const { document, upstream, eras, definitions } = part;
  const selecting = labelGrants.filter(({ selector }) => selectorMatches(selector, document.labels));
  const hashes = [part.hash, own?.hash ?? '', ...selecting.map(({ hash }) => hash).sort()];
  return {
    document,
    upstream,
    eras,
    grants: [...(own?.kind === 'grants' ? own.grants : []), ...selecting.flatMap(({ grants }) => grants)],
    definitions,
    fingerprint: sha256(hashes.join('|')),
  };
}

function* indexPrincipals(
  parts: ReadonlyMap<string, Part>,
  touched: readonly string[],
  previous: BuiltConfiguration | undefined,
  problems: Problems,
): Generator<undefined, Pick<Runtime, 'principalById' | 'apiKeyByHash'>> {
  const keys = touched.filter((key) => key.startsWith('principals/'));
  if (previous !== undefined && keys.length === 0) return previous.runtime;
  const principalById = yield* copied(previous?.runtime.principalById);
  const apiKeyByHash = yield* copied(previous?.runtime.apiKeyByHash);
  // All of them out before one comes in: a key may have passed from one principal to another.
  for (const key of keys) {
    const part = previous?.parts.get(key);
    if (part?.kind !== 'principals') continue;
    for (const principal of part.document.principals) {
      principalById.delete(principal.id);
      for (const apiKey of principal.keys) apiKeyByHash.delete(apiKey.hash);
    }
    yield;
  }
  for (const key of keys) {
    const part = parts.get(key);
    if (part?.kind !== 'principals') continue;
    part.document.principals.forEach((principal, index) => {
      if (principalById.has(principal.id)) problems.add(key, `principals.${index}.id`, 'occurs twice');
      principalById.set(principal.id, principal);
      principal.keys.forEach((apiKey, at) => {
        if (apiKeyByHash.has(apiKey.hash)) problems.add(key, `principals.${index}.keys.${at}.hash`, 'occurs twice');
        const networks = apiKey.networks === undefined ? null : parseNetworks(apiKey.networks);
        apiKeyByHash.set(apiKey.hash, { principal, key: apiKey, networks });
      });
    });
    yield;
  }
  return { principalById, apiKeyByHash };
}
