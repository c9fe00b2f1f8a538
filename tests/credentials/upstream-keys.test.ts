/** The keys that sign what the gateway says toward upstreams, over the hours that a rotation takes. */
import { createKeyProvider, CredentialVault, openDatabase, UpstreamKeys } from '@sallyport/control-plane/credentials';
import { systemClock } from '@sallyport/schema/platform';
import { createLocalJWKSet, decodeProtectedHeader, type JSONWebKeySet, jwtVerify } from 'jose';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { administrator } from '../kit/fleet.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { keyFile } from './credential-kit.ts';

const minuteMs = 60_000;
const file = keyFile();
const startedMs = systemClock.now();
/** Of all processes; time stands still but for the tests. */
let movedMs = 0;
const clock = { ...systemClock, now: () => startedMs + movedMs, monotonic: () => movedMs };
let database: ReturnType<typeof openDatabase>;
/** Two processes of the control plane. */
let one: UpstreamKeys;
let other: UpstreamKeys;

beforeAll(async () => {
  database = openDatabase({ url: (await createMigratedDatabase()).url, connectionsMax: 6 });
});
beforeEach(async () => {
  movedMs = 0;
  await database.raw`delete from upstream_signing_keys`;
  [one, other] = [processOf(), processOf()];
});
afterAll(() => database.close());

function processOf(): UpstreamKeys {
  const vault = new CredentialVault(createKeyProvider({ file }, clock));
  return new UpstreamKeys({ database, vault, clock });
}

/** Time passes, and the timers of both processes run in the same moment. */
async function pass(minutes: number): Promise<void> {
  movedMs += minutes * minuteMs;
  await Promise.all([one.advance(), other.advance()]);
}

async function rotate(keys: UpstreamKeys): Promise<string> {
  movedMs += 1;
  return (await keys.rotate(administrator, {})).id;
}

const sign = (keys: UpstreamKeys): Promise<string> => keys.sign({ sub: 'somebody' }, 'JWT');
const kidOf = (token: string): string => decodeProtectedHeader(token).kid ?? '';

async function published(): Promise<string[]> {
  const { keys } = (await one.published()) as JSONWebKeySet;
  return keys.map(({ kid }) => kid ?? '');
}

/** As somebody verifies who has just read what is published. */
async function verifies(token: string): Promise<boolean> {
  const keys = createLocalJWKSet((await one.published()) as JSONWebKeySet);
  return jwtVerify(token, keys, { algorithms: ['ES256'] }).then(
    () => true,
    () => false,
  );
}

test('two processes that begin at once make one key, and both sign with it', async () => {
  await pass(0);
  const kids = await Promise.all([one, other].map(async (keys) => kidOf(await sign(keys))));
  expect(new Set(kids)).toEqual(new Set(await published()));
  expect(await published()).toHaveLength(1);
});

test('a rotation publishes for an hour, signs from then on, and takes nothing from what was signed within the hour before', async () => {
  await pass(0);
  const first = kidOf(await sign(one));
  const second = await rotate(one);
  expect(await published()).toEqual([first, second]);
  await pass(59);
  expect([kidOf(await sign(one)), kidOf(await sign(other))]).toEqual([first, first]);
  const early = await sign(other);
  await pass(2);
  expect([kidOf(await sign(one)), kidOf(await sign(other))]).toEqual([second, second]);
  // The proofs that were signed with the old one are still good, and so is the client that they are of.
  expect([await published(), await verifies(early), await verifies(await sign(one))]).toEqual([
    [first, second],
    true,
    true,
  ]);
  await pass(59);
  expect(await verifies(early)).toBe(true);
  await pass(2);
  expect([await published(), await verifies(early), await verifies(await sign(other))]).toEqual([
    [second],
    false,
    true,
  ]);
});

test('a process that has the old key open goes on with it for seconds, while it is published', async () => {
  await pass(0);
  const first = kidOf(await sign(one));
  const second = await rotate(one);
  movedMs += 60 * minuteMs - 1_000;
  expect(kidOf(await sign(other))).toBe(first);
  movedMs += 2_000;
  await one.advance();
  const late = await sign(other);
  expect([kidOf(late), kidOf(await sign(one)), await verifies(late)]).toEqual([first, second, true]);
  movedMs += 8_000;
  expect(kidOf(await sign(other))).toBe(second);
});

test('rotations do not overtake each other, and one may begin while an old key is still published', async () => {
  await pass(0);
  await rotate(one);
  await expect(rotate(other)).rejects.toMatchObject({ code: 'CONFLICT' });
  await pass(61);
  const third = await rotate(other);
  expect(await published()).toHaveLength(3);
  await pass(61);
  expect([kidOf(await sign(one)), (await published()).includes(third)]).toEqual([third, true]);
  expect(await published()).toHaveLength(2);
  await pass(61);
  expect(await published()).toEqual([third]);
});

test('without a key to seal with, time makes none', async () => {
  const keys = new UpstreamKeys({ database, vault: new CredentialVault(undefined), clock });
  await keys.advance();
  expect(await published()).toEqual([]);
  await expect(sign(keys)).rejects.toMatchObject({ code: 'CREDENTIAL_KEY_MISSING' });
});
