import {
  DiscoveryJob,
  type DiscoveryJobDependencies,
  DiscoveryService,
  HealthService,
} from '@sallyport/control-plane/catalog';
import { type Database, openDatabase } from '@sallyport/control-plane/fleet';
import { AppError, definitionDigest, type DefinitionFinding, type DiscoveryResult } from '@sallyport/schema';
import { type Clock, createEgress, parseEgressAllowList, systemClock, uuidv7 } from '@sallyport/schema/platform';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { administrator } from '../kit/fleet.ts';
import { type ListingUpstream, startListingUpstream, toolNamed } from '../kit/listing-upstream.ts';
import { createMigratedDatabase, type TestDatabase } from '../kit/postgres.ts';

const egress = createEgress({ allow: parseEgressAllowList('127.0.0.0/8:1-65535').allow });
let testDatabase: TestDatabase;
let database: Database;
let upstream: ListingUpstream;
const jobs: DiscoveryJob[] = [];

beforeAll(async () => {
  testDatabase = await createMigratedDatabase();
  database = openDatabase({ url: testDatabase.url, connectionsMax: 8 });
  upstream = await startListingUpstream();
});
afterEach(async () => {
  await Promise.all(jobs.splice(0).map((job) => job.stop()));
  await database.raw`update servers set deleted_at = now(), slug_key = id::text`;
  upstream.failure = undefined;
  upstream.asked.length = 0;
});
afterAll(async () => {
  await upstream.stop();
  await egress.close();
  await database.close();
});

/** Time that stands still until it is told. */
class StillClock implements Clock {
  nowMs = systemClock.now();

  now(): number {
    return this.nowMs;
  }

  monotonic(): number {
    return systemClock.monotonic();
  }
}

const noNode = () => Promise.reject(new AppError('NOT_READY'));
const learntByNode: DiscoveryResult = {
  protocolRevisions: ['2026-07-28'],
  transport: 'streamableHttp',
  serverInfo: null,
  capabilities: {},
  instructions: null,
  definitions: [{ kind: 'tool', name: 'far', digest: 'sha256:far', raw: { name: 'far' } }],
  notes: [],
};

/** Nobody is asked about definitions here. */
const noWebhooks = {
  ask: () => Promise.resolve([]),
  store: () => Promise.resolve(),
  standing: () => Promise.resolve(() => ({ state: 'clear' as const, problem: '' })),
};

function jobWith(overrides: Partial<DiscoveryJobDependencies> = {}, clock: Clock = systemClock): DiscoveryJob {
  const health = new HealthService(database);
  const job = new DiscoveryJob({
    database,
    egress,
    store: new DiscoveryService(database, health, noWebhooks),
    systemContext: { ...administrator, clock },
    askNode: noNode,
    credentialHeaders: () => Promise.resolve([]),
    build: 'test',
    ...overrides,
    options: { tickMs: 10, timeoutMs: 20_000, ...overrides.options },
  });
  jobs.push(job);
  return job;
}

async function register(values: { url?: string; lifecycle?: string; discoveredBy?: string } = {}): Promise<string> {
  const id = uuidv7(systemClock.now());
  const { url = upstream.url, lifecycle = 'approved', discoveredBy = 'controlPlane' } = values;
  await database.raw`insert into servers (id, slug, slug_key, title, url, lifecycle, discovered_by)
    values (${id}, ${`s-${id}`.slice(0, 38)}, ${id}, 'x', ${url}, ${lifecycle}, ${discoveredBy})`;
  return id;
}

interface Row {
  discovered_at: Date | null;
  discovery_problem: string | null;
  discovery_lease: string | null;
  protocol_revisions: string[];
}

async function rowOf(id: string): Promise<Row> {
  const [row] = await database.raw<Row[]>`select * from servers where id = ${id}`;
  if (row === undefined) throw new Error('no such server');
  return row;
}

async function discoveredAll(ids: readonly string[]): Promise<void> {
  await waitFor('all discovered', async () => {
    const rows = await Promise.all(ids.map(rowOf));
    return rows.every((row) => row.discovered_at !== null && row.discovery_lease === null);
  });
}

function discoveries(): number {
  return upstream.asked.filter((method) => method === 'server/discover').length;
}

test('several processes discover each server once', async () => {
  const ids = await Promise.all(Array.from({ length: 12 }, () => register()));
  for (const job of [jobWith({ options: { concurrencyMax: 2 } }), jobWith(), jobWith()]) job.start();
  await discoveredAll(ids);
  expect(discoveries()).toBe(12);
});

test('a server is due again after its interval, and not before', async () => {
  const clock = new StillClock();
  const id = await register();
  const disabled = await register({ lifecycle: 'disabled' });
  jobWith({ options: { intervalMs: 60_000 } }, clock).start();
  await discoveredAll([id]);
  clock.nowMs += 50_000;
  const other = await register();
  await discoveredAll([other]);
  expect(discoveries()).toBe(2);
  clock.nowMs += 20_000;
  await waitFor('the second discovery', () => discoveries() === 3);
  expect((await rowOf(disabled)).discovered_at).toBeNull();
});

test('a process that died blocks its servers only until the lease ends', async () => {
  const clock = new StillClock();
  const id = await register();
  const lease = uuidv7(clock.now());
  await database.raw`update servers set discovery_lease = ${lease},
    discovery_lease_until = ${new Date(clock.now() + 60_000)} where id = ${id}`;
  const job = jobWith({}, clock);
  job.start();
  const other = await register();
  await discoveredAll([other]);
  expect((await rowOf(id)).discovered_at).toBeNull();
  clock.nowMs += 60_001;
  await discoveredAll([id]);
});

test('a discovery on demand waits for the one under way, instead of doubling it', async () => {
  const id = await register();
  const [first, second] = [jobWith(), jobWith()];
  const rows = await Promise.all([
    first.discoverNow(administrator, { id }),
    second.discoverNow(administrator, { id }),
    second.discoverNow(administrator, { id }),
  ]);
  expect(rows.map((row) => row.discoveredAt === null)).toEqual([false, false, false]);
  // One more than the first at most: for those who asked after that had begun.
  expect(discoveries()).toBeLessThanOrEqual(2);
});

test('what the control plane cannot reach is discovered by a node', async () => {
  const id = await register({ url: 'http://10.0.0.1:8080/mcp' });
  const asked: string[] = [];
  const job = jobWith({
    askNode: ({ url }) => {
      asked.push(url);
      return Promise.resolve(learntByNode);
    },
  });
  const row = await job.discoverNow(administrator, { id });
  expect(asked).toEqual(['http://10.0.0.1:8080/mcp']);
  expect(row).toMatchObject({ protocolRevisions: ['2026-07-28'], discoveryProblem: null });
  const health = await database.raw`select observer, state, problem from server_health where server_id = ${id}`;
  expect(health).toMatchObject([{ observer: 'controlPlane', state: 'unhealthy', problem: 'UPSTREAM_UNREACHABLE' }]);
});

test('a server that only nodes reach is never dialled by the control plane', async () => {
  const id = await register({ discoveredBy: 'node' });
  const row = await jobWith({ askNode: () => Promise.resolve(learntByNode) }).discoverNow(administrator, { id });
  expect(row.discoveryProblem).toBeNull();
  expect(upstream.asked).toEqual([]);
  expect(await database.raw`select 1 from server_health where server_id = ${id}`).toHaveLength(0);
});

test('when nobody reaches it, the control plane tells what it met itself', async () => {
  const id = await register({ url: 'http://10.0.0.1:8080/mcp' });
  const row = await jobWith().discoverNow(administrator, { id });
  expect(row).toMatchObject({
    discoveryProblem: 'UPSTREAM_UNREACHABLE',
    discoveryProblemMessage: 'The MCP server could not be reached.',
  });
});

test('a failure keeps what was known, and the definitions', async () => {
  const id = await register();
  const job = jobWith();
  await job.discoverNow(administrator, { id });
  upstream.failure = 500;
  const row = await job.discoverNow(administrator, { id });
  expect(row.discoveryProblem).toBe('UPSTREAM_PROTOCOL');
  expect(row.protocolRevisions).toHaveLength(4);
  const kept = await database.raw`select 1 from definitions where server_id = ${id} and removed_at is null`;
  expect(kept).toHaveLength(1);
});

test('what was found at another URL than the present one is thrown away', async () => {
  const id = await register({ discoveredBy: 'node' });
  const job = jobWith({
    askNode: async () => {
      await database.raw`update servers set url = 'https://elsewhere.example.com/' where id = ${id}`;
      return learntByNode;
    },
  });
  expect((await job.discoverNow(administrator, { id })).discoveredAt).toBeNull();
});

test('the audit trail has a discovery of the timer only when something changed', async () => {
  const clock = new StillClock();
  const id = await register();
  jobWith({ options: { intervalMs: 1_000 } }, clock).start();
  await discoveredAll([id]);
  clock.nowMs += 2_000;
  await waitFor('the second discovery', () => discoveries() === 2);
  upstream.lists = { ...upstream.lists, tools: [toolNamed('echo', 'other words')] };
  await waitFor('the end of it', async () => (await rowOf(id)).discovery_lease === null);
  clock.nowMs += 2_000;
  await waitFor('the third discovery', () => discoveries() === 3);
  const events = await waitFor('the event', async () => {
    const rows = await database.raw`select action from audit_events where object_id = ${id} order by time, id`;
    return rows.length > 1 ? rows : undefined;
  });
  expect(events.map((event) => event['action'])).toEqual(['server.discover', 'server.discover']);
});

test('an upstream that changes all names each time fills neither definitions nor bodies', async () => {
  const id = await register({ discoveredBy: 'node' });
  let round = 0;
  const job = jobWith({
    askNode: () => {
      round += 1;
      const names = Array.from({ length: 700 }, (_, index) => `tool-${round}-${index}`);
      const definitions = names.map((name) => ({
        kind: 'tool' as const,
        name,
        digest: `sha256:${name}`,
        raw: { name },
      }));
      return Promise.resolve({ ...learntByNode, definitions });
    },
  });
  for (let times = 0; times < 3; times++) await job.discoverNow(administrator, { id });
  const [counts] = await database.raw`select
    (select count(*)::int from definitions where server_id = ${id}) as definitions,
    (select count(*)::int from definition_bodies where server_id = ${id}) as bodies`;
  expect(counts).toEqual({ definitions: 1_700, bodies: 1_700 });
});

test('scans that fail are severe and soon given up, so that other servers get their turn, and are tried again', async () => {
  const id = await register({ discoveredBy: 'node' });
  const definitions = Array.from({ length: 10 }, (_, index) => {
    const name = `tool${index}`;
    return { kind: 'tool' as const, name, digest: `sha256:${name}`, raw: { name } };
  });
  const askNode = () => Promise.resolve({ ...learntByNode, definitions });
  let scans = 0;
  const scannerThat = (finding: readonly DefinitionFinding[]) => ({
    scan: () => {
      scans += 1;
      return Promise.resolve(finding);
    },
    stop: () => Promise.resolve(),
  });
  const discoverWith = async (finding: readonly DefinitionFinding[]) => {
    scans = 0;
    const store = new DiscoveryService(database, new HealthService(database), noWebhooks, scannerThat(finding));
    await jobWith({ askNode, store }).discoverNow(administrator, { id });
    return database.raw<{ findings: unknown[]; state: string }[]>`select findings, state from definitions d
      join definition_bodies b on b.server_id = d.server_id and b.digest = any(d.digests) where d.server_id = ${id}`;
  };
  const failed = await discoverWith([
    { detector: 'scan', category: 'notScanned', severity: 'high', path: '', start: 0, end: 0 },
  ]);
  expect([scans, failed.length, failed.every(({ state }) => state === 'quarantined')]).toEqual([3, 10, true]);
  const again = await discoverWith([]);
  expect([scans, again.every(({ findings }) => findings.length === 0)]).toEqual([10, true]);
  // What was quarantined waits for a person all the same.
  expect(again.every(({ state }) => state === 'quarantined')).toBe(true);
});

describe('what drifted is out of service while its scan goes on, and is judged when it ends:', () => {
  const worded = (description: string) => {
    const raw = toolNamed('drifting', description) as Record<string, unknown>;
    return { kind: 'tool' as const, name: 'drifting', digest: definitionDigest(raw), raw };
  };
  const [approved, drifted] = [worded('Finds issues.'), worded('Finds issues, and more.')];
  const withTool = (tool: typeof approved): DiscoveryResult => ({ ...learntByNode, definitions: [tool] });

  /** Over a scanner that takes as long as the test wants. */
  function held() {
    const { promise, resolve } = Promise.withResolvers<readonly DefinitionFinding[]>();
    const scanner = { scan: () => promise, stop: () => Promise.resolve() };
    return { store: new DiscoveryService(database, new HealthService(database), noWebhooks, scanner), end: resolve };
  }
  const ways: [string, (store: DiscoveryService, id: string) => Promise<unknown>][] = [
    [
      'seen by a discovery',
      (store, id) =>
        jobWith({ askNode: () => Promise.resolve(withTool(drifted)), store }).discoverNow(administrator, { id }),
    ],
    ['reported by a node', (store, id) => store.storeSightings(administrator, 'node', id, [drifted])],
  ];

  test.each(ways)('%s', async (_way, see) => {
    const id = await register({ discoveredBy: 'node' });
    await jobWith({ askNode: () => Promise.resolve(withTool(approved)) }).discoverNow(administrator, { id });
    await database.raw`update definitions set state = 'approved', approved_digests = digests where server_id = ${id}`;
    const stored = async () => {
      const [row] = await database.raw`select d.state, d.drift_class, b.findings from definitions d
        left join definition_bodies b on b.server_id = d.server_id and b.digest = ${drifted.digest}
        where d.server_id = ${id}`;
      return row;
    };
    const generation = async () =>
      Number((await database.raw`select generation from config_generation`)[0]?.['generation']);
    const before = await generation();
    const { store, end } = held();
    const seeing = see(store, id);
    const waiting = await waitFor('it is out of service', async () => {
      const row = await stored();
      return row?.['state'] === 'approved' ? undefined : row;
    });
    expect(waiting).toMatchObject({ state: 'drifted', findings: [{ category: 'notScanned', severity: 'high' }] });
    expect(await generation()).toBeGreaterThan(before);
    end([]);
    await seeing;
    expect(await stored()).toEqual({ state: 'drifted', drift_class: 'review', findings: [] });
  });
});

test('stopping ends what is under way and leaves no lease', async () => {
  const id = await register();
  const job = jobWith({
    egress: {
      fetch: (_input, init) =>
        new Promise((_resolve, reject) => {
          init?.signal?.addEventListener('abort', () => reject(new Error('aborted')));
        }),
    },
    options: { timeoutMs: 60_000 },
  });
  job.start();
  await waitFor('the lease', async () => (await rowOf(id)).discovery_lease !== null);
  await job.stop();
  expect((await rowOf(id)).discovery_lease).toBeNull();
  expect((await rowOf(id)).discovery_problem).toBeNull();
});

test('a doubt of a node makes a server in service due, once, a little while after the last look at it', async () => {
  const clock = new StillClock();
  const id = await register();
  const draft = await register({ lifecycle: 'draft' });
  const job = jobWith({ options: { intervalMs: 3_600_000, doubtIntervalMs: 10_000 } }, clock);
  job.start();
  await discoveredAll([id, draft]);
  const before = discoveries();
  clock.nowMs += 5_000;
  for (const doubted of [id, draft, 'no-id', uuidv7(clock.nowMs)]) await job.doubt(doubted);
  const other = await register();
  await discoveredAll([other]);
  expect(discoveries()).toBe(before + 1);
  clock.nowMs += 6_000;
  await waitFor('the doubted server', () => discoveries() === before + 2);
  await discoveredAll([id]);
  const last = await register();
  await discoveredAll([last]);
  expect(discoveries()).toBe(before + 3);
});

test('what a server speaks after a doubt takes the place of what it spoke, and nodes must know', async () => {
  const clock = new StillClock();
  const id = await register();
  const job = jobWith({ options: { intervalMs: 3_600_000 } }, clock);
  job.start();
  await discoveredAll([id]);
  const was = (await rowOf(id)).protocol_revisions;
  const [before] = await database.raw`select generation from config_generation`;
  upstream.modern = false;
  clock.nowMs += 11_000;
  await job.doubt(id);
  await waitFor('other revisions', async () => (await rowOf(id)).protocol_revisions.length < was.length);
  expect((await rowOf(id)).protocol_revisions).not.toContain('2026-07-28');
  const [after] = await database.raw`select generation from config_generation`;
  expect(Number(after?.['generation'])).toBeGreaterThan(Number(before?.['generation']));
  upstream.modern = true;
});
