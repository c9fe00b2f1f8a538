import { systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { askGraphql, startTestControlPlane, testBootstrapToken, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;

const bootstrap = `mutation ($token: String!) { bootstrap(input: { token: $token }) { secret apiKeyId } }`;

beforeAll(async () => {
  plane = await startTestControlPlane({ bootstrap: false });
  sql = postgres(plane.databaseUrl);
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

test('a wrong bootstrap token opens nothing', async () => {
  const answer = await askGraphql(plane.graphqlUrl, bootstrap, { token: 'a token that nobody has ever given out' });
  expect(answer.errors[0]?.extensions.code).toBe('UNAUTHENTICATED');
  expect(await sql`select 1 from principals`).toHaveLength(0);
});

test('a wrong bootstrap token is refused without waiting for, or holding, the lock on principals', async () => {
  await sql.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(hashtext('sallyport.owners'))`;
    const answer = await askGraphql(plane.graphqlUrl, bootstrap, { token: 'a token that nobody has ever given out' });
    expect(answer.errors[0]?.extensions.code).toBe('UNAUTHENTICATED');
  });
});

test('the bootstrap token opens once, also when used twice at the same time', async () => {
  const answers = await Promise.all(
    [1, 2, 3].map(() => askGraphql(plane.graphqlUrl, bootstrap, { token: testBootstrapToken })),
  );
  const opened = answers.filter((answer) => answer.errors.length === 0);
  expect(opened).toHaveLength(1);
  const secret: string = opened[0]?.data.bootstrap.secret;
  expect(secret).toMatch(/^sp_/);
  const me = await plane.ask('{ me { kind permissions } }', {}, secret);
  expect(me.data.me.permissions).toContain('role:assign');
});

test('the bootstrap key is stored as its digest only', async () => {
  const [row] = await sql<{ hash: string; all: string }[]>`select hash, api_keys::text as all from api_keys`;
  expect(row?.hash).toMatch(/^[0-9a-f]{64}$/);
  expect(row?.all).not.toMatch(/sp_[A-Za-z0-9_-]{20}/);
});

test('after all owners are gone a used token stays closed', async () => {
  await sql`update principals set status = 'disabled'`;
  const answer = await askGraphql(plane.graphqlUrl, bootstrap, { token: testBootstrapToken });
  expect(answer.errors[0]?.extensions.code).toBe('UNAUTHENTICATED');
});

test('a token made at the first start opens for 24 hours; a later start then makes another', async () => {
  const clock = { at: systemClock.now(), now: () => clock.at, monotonic: () => systemClock.monotonic() };
  const options = { bootstrap: false, clock, environment: { SALLYPORT_BOOTSTRAP_TOKEN: '' } };
  const first = await startTestControlPlane(options);
  const made = first.controlPlane.bootstrapToken ?? '';
  expect(made).toMatch(/^spb_[\w-]{40,}$/);
  await first.stop();
  const again = await startTestControlPlane({ ...options, databaseUrl: first.databaseUrl });
  // The first is still good, so it is not shown again, nor replaced.
  expect(again.controlPlane.bootstrapToken).toBeUndefined();
  clock.at += 24 * 3_600_000;
  const late = await askGraphql(again.graphqlUrl, bootstrap, { token: made });
  expect(late.errors[0]?.extensions.code).toBe('UNAUTHENTICATED');
  await again.stop();
  const later = await startTestControlPlane({ ...options, databaseUrl: first.databaseUrl });
  const successor = later.controlPlane.bootstrapToken ?? '';
  expect(successor).toMatch(/^spb_/);
  const closed = await askGraphql(later.graphqlUrl, bootstrap, { token: made });
  expect(closed.errors[0]?.extensions.code).toBe('UNAUTHENTICATED');
  expect((await askGraphql(later.graphqlUrl, bootstrap, { token: successor })).errors).toEqual([]);
  await later.stop();
});
