/** A compile that looks only where a transaction said it had changed something, and the net beneath it. */
import { bumpConfigGeneration, type ConfigChange, FleetVault, SnapshotPublisher } from '@sallyport/control-plane/fleet';
import { systemClock } from '@sallyport/schema/platform';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import {
  administrator,
  seedRows,
  type SeededRows,
  startTestControlPlane,
  type TestControlPlane,
  testSecretKey,
} from '../kit/fleet.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';

let control: TestControlPlane;
let publisher: SnapshotPublisher;
let rows: SeededRows;
let other: SeededRows;

function newPublisher(): SnapshotPublisher {
  const vault = new FleetVault(testSecretKey);
  return new SnapshotPublisher({
    database: control.database,
    vault,
    publicUrls: undefined,
    clock: systemClock,
    log: administrator.log,
  });
}

async function note(change?: ConfigChange): Promise<void> {
  await control.database.db.transaction((tx) => bumpConfigGeneration(tx, change));
}

beforeAll(async () => {
  control = await startTestControlPlane((await createMigratedDatabase()).url);
  // The one that is tested publishes when told to, not when signalled.
  await control.fleet.publisher.stop();
  rows = await seedRows(control.database);
  other = await seedRows(control.database, 'other');
  publisher = newPublisher();
});
afterAll(() => control.stop());
// In step with everything, so that the next compile is one of what was noted.
beforeEach(() => publisher.publish());

type Sql = TestControlPlane['database']['raw'];
const server = (): ConfigChange => ({ serverIds: [rows.serverId] });
const principal = (): ConfigChange => ({ principalIds: [rows.principalId] });
const changes: [string, () => ConfigChange, (raw: Sql) => Promise<unknown>][] = [
  ['a server', server, (raw) => raw`update servers set labels = '{"a":"b"}' where id = ${rows.serverId}`],
  ['a definition', server, (raw) => raw`update definitions set state = 'drifted' where server_id = ${rows.serverId}`],
  ['a grant', server, (raw) => raw`update grants set tools = '{a,b}' where id = ${rows.grantId}`],
  ['an ended grant', server, (raw) => raw`update grants set deleted_at = now() where id = ${rows.grantId}`],
  ['a principal', principal, (raw) => raw`update principals set epoch = 1 where id = ${rows.principalId}`],
  ['a membership', principal, (raw) => raw`delete from group_members where principal_id = ${rows.principalId}`],
  ['a key', principal, (raw) => raw`update api_keys set revoked_at = now() where principal_id = ${rows.principalId}`],
  ['a disabled server', server, (raw) => raw`update servers set lifecycle = 'disabled' where id = ${rows.serverId}`],
];

test.each(changes)('%s that was changed is published, as a compile of everything would', async (_name, noted, work) => {
  await work(control.database.raw);
  await note(noted());
  expect(await publisher.publish()).toMatchObject({ published: true });
  expect(await newPublisher().publish()).toMatchObject({ published: false });
});

test('nothing but what was noted is looked at, until the timer has everything looked through', async () => {
  await control.database.raw`update grants set tools = '{unsaid}' where id = ${other.grantId}`;
  await note(server());
  expect(await publisher.publish()).toMatchObject({ published: false });
  const revision = async () => (await control.fleet.nodes.configStatus(administrator)).configRevision;
  const before = await revision();
  publisher.reconcile();
  await waitFor('everything was looked through', async () => (await revision()) > before);
});

test.each([
  ['by a change that names nothing', () => note()],
  [
    'by a generation of which nothing was noted',
    () => control.database.raw`update config_generation set generation = generation + 1`,
  ],
  [
    'where the notes of some generation are gone',
    async () => {
      await note(server());
      await control.database.raw`delete from config_changes`;
      await note(server());
    },
  ],
])('everything is looked through %s', async (_case, raise) => {
  await control.database
    .raw`update grants set tools = array[${Math.round(performance.now())}::text] where id = ${other.grantId}`;
  await raise();
  expect(await publisher.publish()).toMatchObject({ published: true });
});

test('changes of several transactions are published together', async () => {
  await control.database.raw`update grants set tools = '{together}' where id = ${other.grantId}`;
  await note({ serverIds: [other.serverId] });
  await control.database.raw`update principals set name = 'Together' where id = ${other.principalId}`;
  await note({ principalIds: [other.principalId] });
  expect(await publisher.publish()).toMatchObject({ published: true });
  expect(await newPublisher().publish()).toMatchObject({ published: false });
});

test('what was compiled and could not be published is published with what changed since', async () => {
  const { raw } = control.database;
  await raw`update principals set epoch = 77 where id = ${rows.principalId}`;
  await note(principal());
  await raw`create function refuse() returns trigger language plpgsql as $$ begin raise 'no room'; end $$`;
  await raw`create trigger refuse before insert on config_manifests execute function refuse()`;
  await expect(publisher.publish()).rejects.toThrow('config_manifests');
  await raw`drop trigger refuse on config_manifests`;
  await raw`update grants set tools = '{since}' where id = ${other.grantId}`;
  await note({ serverIds: [other.serverId] });
  expect(await publisher.publish()).toMatchObject({ published: true });
  expect(await newPublisher().publish()).toMatchObject({ published: false });
});

/** Kinds of changes, each to one of a few states, so that a sequence of them goes back and forth. */
const steps: readonly ((raw: Sql, value: number) => Promise<ConfigChange>)[] = [
  async (raw, value) => {
    await raw`update servers set labels = jsonb_build_object('n', ${String(value)}::text) where id = ${rows.serverId}`;
    return server();
  },
  async (raw, value) => {
    const state = ['approved', 'drifted', 'quarantined'][value % 3] ?? '';
    await raw`update definitions set state = ${state} where server_id = ${rows.serverId}`;
    return server();
  },
  async (raw, value) => {
    await raw`update grants set tools = array[${`tool_${value}`}::text] where id = ${rows.grantId}`;
    return server();
  },
  async (raw, value) => {
    await raw`update grants set deleted_at = case when ${value % 2 === 0} then now() end where id = ${other.grantId}`;
    return { serverIds: [other.serverId] };
  },
  async (raw, value) => {
    const lifecycle = value % 2 === 0 ? 'approved' : 'disabled';
    await raw`update servers set lifecycle = ${lifecycle} where id = ${rows.serverId}`;
    return server();
  },
  async (raw, value) => {
    await raw`update principals set epoch = ${value} where id = ${rows.principalId}`;
    return principal();
  },
  async (raw, value) => {
    if (value % 2 === 0) await raw`delete from group_members where principal_id = ${rows.principalId}`;
    else {
      await raw`insert into group_members (group_id, principal_id)
        values (${rows.groupId}, ${rows.principalId}) on conflict do nothing`;
    }
    return principal();
  },
  async (raw, value) => {
    await raw`update api_keys set revoked_at = case when ${value % 2 === 0} then now() end
      where principal_id = ${rows.principalId}`;
    return principal();
  },
];

test('whatever is changed, in whatever order and however much at once, comes to what a compile of everything gives', async () => {
  const step = fc.tuple(fc.nat(steps.length - 1), fc.nat(5));
  // Transactions between two compiles.
  const property = fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 5 }), async (taken) => {
    for (const [kind, value] of taken) {
      const change = await steps[kind]?.(control.database.raw, value);
      await note(change);
    }
    await publisher.publish();
    expect(await newPublisher().publish()).toMatchObject({ published: false });
  });
  await fc.assert(property, { numRuns: 25 });
});
