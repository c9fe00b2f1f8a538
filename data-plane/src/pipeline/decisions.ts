import {
  applicableGrants,
  decideServer,
  isConditional,
  isInNetworks,
  matchesTarget,
  type AccessRequest,
  type AccessTarget,
  type CompiledGrant,
  type Decision,
  type PrincipalRecord,
} from '@sallyport/schema';
import type { ApiKeyEntry, ServerRuntime } from '../runtime/runtime.ts';
import type { RuntimeSource } from './exchange.ts';

/** Memory for remembered decisions, in bytes (estimated). */
export const decisionCacheBytesMax = 64 * 1024 * 1024;
/** Decisions remembered per set; names come from callers, so their number must not be theirs to choose. */
const targetsPerSetMax = 4096;
/** Longer names are decided anew each time, in characters. */
const rememberedNameLengthMax = 256;
/** What an entry costs besides its text, in bytes: measured roughly, on the high side. */
const entryBytes = 256;

/** Whether a principal may act now. */
export function isActive(principal: PrincipalRecord, nowMs: number): boolean {
  return principal.status === 'active' && (principal.expiresAt === null || nowMs < principal.expiresAt);
}

/**
 * Whether a key may be used now and from an address: active principal, nothing expired, made for calling tools. Which
 * servers it opens is not looked at here.
 */
export function mayCall({ principal, key, networks }: ApiKeyEntry, nowMs: number, address: string | null): boolean {
  const isUsable = isActive(principal, nowMs) && nowMs < key.expiresAt && key.scopes.includes('mcp');
  return isUsable && (networks === null || isInNetworks(networks, address));
}

/** What of a server's configuration decisions need, besides the grants; made once per server and configuration. */
interface ServerIndex {
  /** `kind:id` of principals that a grant names directly. */
  readonly principals: ReadonlySet<string>;
  /** Groups that a grant names, each with a place that follows from the grants alone. */
  readonly groups: ReadonlyMap<string, string>;
  /** Instants at which some grant begins or ends, ascending. */
  readonly boundaries: readonly number[];
}

/** Made where a decision needs it, and not for what is remembered. */
export type RequestOf = () => AccessRequest;

/** What was found about a target: the decision, or the grants that may decide it where that depends on the request. */
type Remembered = { readonly decision: Decision } | { readonly candidates: readonly CompiledGrant[] };

/**
 * The decisions for one set of grant subjects on one server, each made on first use. What a condition has a say in is
 * decided for each request, so that nothing of one principal or call is remembered for another. Valid while no grant
 * of the server begins or ends; the cache makes another set then.
 */
export class DecisionSet {
  readonly #applicable: readonly CompiledGrant[];
  readonly #definitions: ServerRuntime['definitions'];
  readonly #isConditional: boolean;
  readonly #decided = new Map<string, Remembered>();
  readonly #grew: (bytes: number) => void;
  #server: Decision | undefined;

  constructor(server: ServerRuntime, principal: PrincipalRecord, grew: (bytes: number) => void) {
    this.#applicable = applicableGrants(server.grants, principal);
    this.#isConditional = this.#applicable.some(isConditional);
    this.#definitions = server.definitions;
    this.#grew = grew;
  }

  /** Whether the principal may know of the server at all. */
  decideServer(request: RequestOf): Decision {
    if (this.#isConditional) return decideServer(this.#applicable, request());
    this.#server ??= decideServer(this.#applicable, request());
    return this.#server;
  }

  decide(target: AccessTarget, request: RequestOf): Decision {
    const key = `${target.kind}\n${target.name}`;
    let remembered = this.#decided.get(key);
    if (remembered === undefined) {
      remembered = this.#find(target, request);
      if (key.length <= rememberedNameLengthMax && this.#decided.size < targetsPerSetMax) {
        this.#decided.set(key, remembered);
        this.#grew(entryBytes + 2 * key.length);
      }
    }
    if ('decision' in remembered) return remembered.decision;
    return this.#definitions.decide(remembered.candidates, target, request());
  }

  #find(target: AccessTarget, request: RequestOf): Remembered {
    const labelled = this.#definitions.labelled(target);
    const candidates = this.#applicable.filter((grant) => matchesTarget(grant, labelled));
    if (candidates.some(isConditional)) return { candidates };
    return { decision: this.#definitions.decide(candidates, target, request()) };
  }
}

interface CacheEntry {
  readonly set: DecisionSet;
  readonly of: ServerEntries;
  readonly key: string;
  /** Control-plane time in which the set holds: `fromMs` inclusive, `untilMs` exclusive. */
  readonly fromMs: number;
  readonly untilMs: number;
  bytes: number;
  /** Its neighbours in the order of use. */
  older: CacheEntry | undefined;
  newer: CacheEntry | undefined;
}

function holds({ fromMs, untilMs }: CacheEntry, nowMs: number): boolean {
  return fromMs <= nowMs && nowMs < untilMs;
}

/** All that is remembered of one server as it was configured at some time. */
interface ServerEntries {
  readonly index: ServerIndex;
  /** By grant subjects. */
  readonly entries: Map<string, CacheEntry>;
}

/**
 * Decision sets by server fingerprint and grant subjects: principals whom the same grants concern share one, and what a
 * configuration change did not touch survives it. Least recently used sets go when the memory bound is reached; those of
 * what is not configured any more go with the change, since each holds all that was known of its server.
 */
export class DecisionCache {
  readonly #bytesMax: number;
  /** By fingerprint. */
  readonly #servers = new Map<string, ServerEntries>();
  #oldest: CacheEntry | undefined;
  #newest: CacheEntry | undefined;
  #bytes = 0;
  /** What was asked for last: the stages of one exchange ask for the same, one after the other. */
  #last:
    | { readonly server: ServerRuntime; readonly principal: PrincipalRecord; readonly entry: CacheEntry }
    | undefined;

  constructor(options: { readonly bytesMax: number }) {
    this.#bytesMax = options.bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** @param nowMs the control plane's time, in milliseconds since the epoch */
  get(server: ServerRuntime, principal: PrincipalRecord, nowMs: number): DecisionSet {
    const last = this.#last;
    if (last?.server === server && last.principal === principal && holds(last.entry, nowMs)) return last.entry.set;
    const entry = this.#find(server, principal, nowMs);
    this.#last = { server, principal, entry };
    return entry.set;
  }

  /** Lets go of what was decided about other servers than these. */
  keepOnly(servers: Iterable<ServerRuntime>): void {
    this.#last = undefined;
    const kept = new Set<string>();
    for (const { fingerprint } of servers) kept.add(fingerprint);
    for (const [fingerprint, { entries }] of this.#servers) {
      if (kept.has(fingerprint)) continue;
      for (const entry of entries.values()) this.#unlink(entry);
      entries.clear();
      this.#servers.delete(fingerprint);
    }
  }

  #find(server: ServerRuntime, principal: PrincipalRecord, nowMs: number): CacheEntry {
    let of = this.#servers.get(server.fingerprint);
    if (of === undefined) {
      of = { index: indexServer(server), entries: new Map() };
      this.#servers.set(server.fingerprint, of);
    }
    const key = subjectsKey(of.index, principal);
    const found = of.entries.get(key);
    if (found !== undefined) {
      this.#unlink(found);
      if (holds(found, nowMs)) {
        this.#link(found);
        return found;
      }
    }
    return this.#add(key, server, of, principal, nowMs);
  }

  #add(key: string, server: ServerRuntime, of: ServerEntries, principal: PrincipalRecord, nowMs: number): CacheEntry {
    const { boundaries } = of.index;
    const grew = (bytes: number): void => {
      // A set that was let go while a request still holds it no longer counts.
      if (of.entries.get(key) !== entry) return;
      entry.bytes += bytes;
      this.#bytes += bytes;
      this.#evict();
    };
    const entry: CacheEntry = {
      set: new DecisionSet(server, principal, grew),
      of,
      key,
      fromMs: boundaries.findLast((instant) => instant <= nowMs) ?? Number.NEGATIVE_INFINITY,
      untilMs: boundaries.find((instant) => instant > nowMs) ?? Number.POSITIVE_INFINITY,
      bytes: entryBytes + 2 * key.length,
      older: undefined,
      newer: undefined,
    };
    of.entries.set(key, entry);
    this.#link(entry);
    this.#evict();
    return entry;
  }

  #evict(): void {
    if (this.#bytes > this.#bytesMax) this.#last = undefined;
    while (this.#bytes > this.#bytesMax && this.#oldest !== undefined) {
      const { of, key } = this.#oldest;
      this.#unlink(this.#oldest);
      of.entries.delete(key);
    }
  }

  /** As the one used last. */
  #link(entry: CacheEntry): void {
    this.#bytes += entry.bytes;
    entry.older = this.#newest;
    entry.newer = undefined;
    if (this.#newest === undefined) this.#oldest = entry;
    else this.#newest.newer = entry;
    this.#newest = entry;
  }

  #unlink(entry: CacheEntry): void {
    const { older, newer } = entry;
    this.#bytes -= entry.bytes;
    if (older === undefined) this.#oldest = newer;
    else older.newer = newer;
    if (newer === undefined) this.#newest = older;
    else newer.older = older;
  }
}

/** Short, since it is made for each exchange, and a principal may be in hundreds of groups. */
function subjectsKey(index: ServerIndex, principal: PrincipalRecord): string {
  let key = '';
  if (index.groups.size > 0) for (const group of principal.groups) key += index.groups.get(group) ?? '';
  if (index.principals.size === 0) return key;
  const self = `${principal.kind}:${principal.id}`;
  return index.principals.has(self) ? `${key}\n${self}` : key;
}

/** Two UTF-16 units, so that places put together stay apart. */
function placeOf(at: number): string {
  return String.fromCharCode(at >>> 16, at & 0xffff);
}

function indexServer(server: ServerRuntime): ServerIndex {
  const principals = new Set<string>();
  const groups = new Set<string>();
  const boundaries = new Set<number>();
  for (const { entry } of server.grants) {
    if (entry.subject.kind === 'group') groups.add(entry.subject.id);
    else if (entry.subject.kind !== 'everyone') principals.add(`${entry.subject.kind}:${entry.subject.id}`);
    for (const instant of [entry.notBefore, entry.notAfter]) if (instant !== null) boundaries.add(instant);
  }
  return {
    principals,
    groups: new Map([...groups].sort().map((group, at) => [group, placeOf(at)])),
    boundaries: [...boundaries].sort((a, b) => a - b),
  };
}

/** What stages need to decide. */
export interface DecisionContext {
  readonly decisions: DecisionCache;
  readonly runtimes: Pick<RuntimeSource, 'now' | 'contactAgeMs'>;
}
