import { afterAll, beforeAll, expect, test } from 'vitest';
import { FleetVault, SnapshotPublisher } from '@sallyport/control-plane/fleet';
import { systemClock } from '@sallyport/schema/platform';
import {
  administrator,
  change,
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

beforeAll(async () => {
  control = await startTestControlPlane((await createMigratedDatabase()).url);
  // The one that is tested publishes when told to, not when signalled.
  await control.fleet.publisher.stop();
  rows = await seedRows(control.database);
  publisher = newPublisher();
  await publisher.publish();
});
afterAll(() => control.stop());

type Sql = TestControlPlane['database']['raw'];
const noLimits = {
  riskMin: null,
  riskMax: null,
  readOnly: null,
  destructive: null,
  idempotent: null,
  openWorld: null,
};
const changes: [string, (tx: Sql) => Promise<unknown>][] = [
  ['the address of a server', (tx) => tx`update servers set url = 'https://other.example.com/mcp'`],
  ['the lifecycle of a server', (tx) => tx`update servers set lifecycle = 'deprecated'`],
  ['labels of a server', (tx) => tx`update servers set labels = '{"a":"b"}'`],
  ['the audit mode of a server', (tx) => tx`update servers set audit_mode = 'strict'`],
  ['the staleness of a server', (tx) => tx`update servers set config_staleness_max_ms = 1000`],
  ['the protocol revisions of a server', (tx) => tx`update servers set protocol_revisions = '{2026-07-28}'`],
  ['an approved digest', (tx) => tx`update definitions set approved_digests = '{d1,d2}'`],
  ['the state of a definition', (tx) => tx`update definitions set state = 'quarantined'`],
  ['the risk of a tool', (tx) => tx`update definitions set risk = 'high' where kind = 'tool'`],
  ['whether a tool only reads', (tx) => tx`update definitions set read_only = true where kind = 'tool'`],
  // The same value of other labels must not look like no change.
  [
    'whether a tool is destructive',
    (tx) => tx`update definitions set read_only = null, destructive = true where kind = 'tool'`,
  ],
  [
    'whether a tool is idempotent',
    (tx) => tx`update definitions set destructive = null, idempotent = true where kind = 'tool'`,
  ],
  [
    'whether a tool reaches the open world',
    (tx) => tx`update definitions set idempotent = null, open_world = true where kind = 'tool'`,
  ],
  ['a removed definition', (tx) => tx`update definitions set removed_at = now()`],
  ['the tools of a grant', (tx) => tx`update grants set tools = '{a,b}'`],
  ['the effect of a grant', (tx) => tx`update grants set effect = 'deny'`],
  ['the beginning of a grant', (tx) => tx`update grants set not_before = '2040-01-01'`],
  // The same instant in the other column must not look like no change.
  ['the end of a grant', (tx) => tx`update grants set not_before = null, not_after = '2040-01-01'`],
  ['the subject of a grant', (tx) => tx`update grants set subject_kind = 'everyone', subject_group_id = null`],
  ['a group of a grant', (tx) => tx`update grants set subject_kind = 'group', subject_group_id = ${rows.groupId}`],
  ['the mode of a grant', (tx) => tx`update grants set mode = 'shadow'`],
  ['the limits of a grant', (tx) => tx`update grants set limits = ${tx.json({ ...noLimits, riskMax: 'low' })}`],
  // The same limit by another label.
  ['a limit of a grant', (tx) => tx`update grants set limits = ${tx.json({ ...noLimits, riskMin: 'low' })}`],
  ['the condition of a grant', (tx) => tx`update grants set limits = null, when_condition = 'now > now'`],
  [
    'the condition over arguments',
    (tx) => tx`update grants set when_condition = null, when_arguments = 'now > now', resources = '{}'`,
  ],
  ['the staleness of a grant', (tx) => tx`update grants set effect = 'allow', config_staleness_max_ms = 1000`],
  ['the server of a grant', (tx) => tx`update grants set server_id = null, server_labels = '{"a":"b"}'`],
  ['the labels of a grant', (tx) => tx`update grants set server_labels = '{"a":"c"}'`],
  ['the tools of a grant on labels', (tx) => tx`update grants set tools = '{c}'`],
  ['the mode of a grant on labels', (tx) => tx`update grants set mode = 'enforce'`],
  ['the name of a group', (tx) => tx`update groups set name = 'renamed'`],
  ['a membership', (tx) => tx`delete from group_members`],
  ['a deleted group', (tx) => tx`update groups set deleted_at = now()`],
  ['the name of a principal', (tx) => tx`update principals set name = 'Renamed' where id = ${rows.principalId}`],
  ['the epoch of a principal', (tx) => tx`update principals set epoch = 1 where id = ${rows.principalId}`],
  ['the status of a principal', (tx) => tx`update principals set status = 'disabled' where id = ${rows.principalId}`],
  ['the expiry of a key', (tx) => tx`update api_keys set expires_at = '2040-01-01'`],
  ['the scopes of a key', (tx) => tx`update api_keys set scopes = '{mcp,api}'`],
  ['a revoked key', (tx) => tx`update api_keys set revoked_at = now()`],
  ['a deleted principal', (tx) => tx`update principals set deleted_at = now() where id = ${rows.principalId}`],
  ['a limit', (tx) => tx`insert into settings (key, value) values ('limits', '{"sessionTtlMs":1000}')`],
  ['a server that is served no more', (tx) => tx`update servers set lifecycle = 'disabled'`],
];

test.each(changes)('a change of %s is published, as a compile of everything would', async (_name, work) => {
  await change(control.database, work);
  expect(await publisher.publish()).toMatchObject({ published: true });
  expect(await newPublisher().publish()).toMatchObject({ published: false });
});

test('what changes nothing for nodes is not published', async () => {
  await change(control.database, (tx) => tx`update servers set title = 'Another', description = 'Words'`);
  expect(await publisher.publish()).toMatchObject({ published: false });
  expect((await control.fleet.nodes.configStatus(administrator)).pending).toBe(false);
  expect(await publisher.publish()).toBeUndefined();
});

test('two processes publish in turn, and neither undoes the other', async () => {
  const other = newPublisher();
  await change(control.database, (tx) => tx`update servers set lifecycle = 'approved'`);
  expect(await other.publish()).toMatchObject({ published: true });
  await change(control.database, (tx) => tx`update servers set lifecycle = 'disabled'`);
  expect(await other.publish()).toMatchObject({ published: true });
  await change(control.database, (tx) => tx`update servers set lifecycle = 'approved'`);
  // This one compiled that state long ago and has no bodies of it any more; its documents may be gone as well.
  await control.database.raw`delete from config_documents d
    where not exists (select 1 from config_entries e where e.hash = d.hash)`;
  expect(await publisher.publish()).toMatchObject({ published: true });
  expect(await other.publish()).toMatchObject({ published: false });
});

test('the headers of parameters travel with the tool whose approved definition names them', async () => {
  const region = { type: 'string', 'x-mcp-header': 'Region' };
  const raw = JSON.stringify({ name: 'echo', inputSchema: { type: 'object', properties: { region } } });
  await change(control.database, async (tx) => {
    await tx`update definitions set approved_digests = '{d9}', removed_at = null where kind = 'tool'`;
    await tx`insert into definition_bodies (server_id, digest, raw)
      values (${rows.serverId}, 'd8', ${raw.replace('Region', 'NotApproved')}), (${rows.serverId}, 'd9', ${raw})`;
  });
  expect(await publisher.publish()).toMatchObject({ published: true });
  const [stored] = await control.database.raw<{ body: string }[]>`
    select d.body from config_documents d join config_entries e on e.hash = d.hash
    where e.key = ${`server/${rows.serverId}`}`;
  const published = [[{ name: 'Region', path: ['region'], type: 'string' }]];
  expect(JSON.parse(stored?.body ?? '')).toMatchObject({ definitions: [{ name: 'echo', paramHeaders: published }] });
});

test('secrets stand in the database sealed only', async () => {
  const stored = await control.database.raw<{ body: string; sealed: boolean }[]>`
    select d.body, d.sealed from config_documents d join config_entries e on e.hash = d.hash where e.key = 'keys'`;
  expect(stored).toHaveLength(1);
  expect(stored[0]?.sealed).toBe(true);
  expect(stored[0]?.body).not.toContain('secret');
});
