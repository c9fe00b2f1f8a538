import {
  payloadContentSchema,
  payloadIdentity,
  type PayloadRecord,
  type PolicyDirection,
  type PolicyEntry,
  policyMatchDefaults,
} from '@sallyport/schema';
import type { PayloadCaptureOptions } from '@sallyport/data-plane';
import { LendingKey, openPayload, sealMessages } from '@sallyport/schema/platform';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type AskingUpstream, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { describeTool, type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { approvedAs, otherKey, type PipelineNode, startPipelineNode, type TestConfiguration } from './pipeline-node.ts';
import { endOfExchange, policyEntry, streamWith } from './policy-kit.ts';
import { type Answer, eventsOf, legacy, modern, send } from './requests.ts';

// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');
const key = new LendingKey();
const payloadKey = { kind: 'payloadKey' as const, id: 'key-1', publicKey: key.publicKey };

let upstream: FakeUpstream;
let asking: AskingUpstream;
let node: PipelineNode;

const capture = (more: Partial<PolicyEntry> = {}, bytesMax = 65_536): PolicyEntry =>
  policyEntry({ id: 'captures', capture: { directions: ['request', 'response'], bytesMax }, ...more });

function configuration(policies: readonly PolicyEntry[], more: Partial<TestConfiguration> = {}): TestConfiguration {
  const secret = approvedAs('tool', [describeTool('other')]).map((entry) => ({ ...entry, secretMembers: ['answer'] }));
  return {
    servers: [
      { slug: 'both', url: upstream.url, tools: ['count'], definitions: secret },
      { slug: 'strict', url: upstream.url, tools: ['count'], auditMode: 'strict' },
      { slug: 'old', url: asking.url, protocolRevisions: ['2025-11-25'], tools: ['count'] },
    ],
    grants: ['both', 'strict', 'old'].map((server) => ({ server, tools: ['*'], resources: ['*'] })),
    policies,
    payloadKey,
    ...more,
  };
}

beforeAll(async () => {
  upstream = await startFakeUpstream();
  asking = await startAskingUpstream({ era: 'legacy' });
  node = await startPipelineNode(configuration([]));
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
  await asking.stop();
});
beforeEach(async () => {
  // What an exchange of the test before left behind must not come into this one.
  await waitFor('all exchanges have ended', () => {
    const count = (type: string): number => node.records.filter((record) => record.type === type).length;
    return count('opened') === count('closed') || undefined;
  });
  await node.captures.settled(10_000);
  node.records.length = 0;
  node.payloads.length = 0;
  upstream.intercept(() => false);
});

function use(policy: PolicyEntry, more: Partial<TestConfiguration> = {}): void {
  node.configure(configuration([policy], more));
}

function captured(direction: PolicyDirection): Promise<PayloadRecord> {
  return waitFor(`the captured ${direction}`, () => node.payloads.find((record) => record.direction === direction));
}

function open(record: PayloadRecord): readonly string[] {
  const identity = payloadIdentity('node-1', record, record.sealed?.keyId ?? '');
  const opened = record.sealed === null ? undefined : openPayload(key, identity, record.sealed);
  return payloadContentSchema.parse(JSON.parse(opened ?? 'null')).messages;
}

/** What the client got, a text for each message. */
function messagesIn({ headers, text }: Answer): readonly string[] {
  const isStream = headers['content-type']?.startsWith('text/event-stream') === true;
  return isStream ? eventsOf(text).map((event) => JSON.stringify(event)) : [text];
}

const streaming = (...messages: readonly object[]): void => streamWith(upstream, messages);

const call = (values: object, name = 'count') => modern('tools/call', { name, arguments: values });

/** What was captured, and what records say that is, once the exchange has ended. */
async function all(): Promise<readonly unknown[]> {
  await endOfExchange(node);
  await node.captures.settled(10_000);
  return [...node.payloads, ...node.records.flatMap((record) => ('capture' in record ? (record.capture ?? []) : []))];
}

describe('nothing is captured', () => {
  test('by default', async () => {
    node.configure(configuration([]));
    await send(node.url('both'), call({ id: 'a' }));
    expect(await all()).toEqual([]);
  });

  test.each([
    ['of another server', { match: { ...policyMatchDefaults, serverIds: ['server-old'] } }],
    ['of another tool', { match: { ...policyMatchDefaults, tools: ['other'] } }],
    ['of another principal', { match: { ...policyMatchDefaults, principalIds: ['another'] } }],
    ['by a policy in shadow', { mode: 'shadow' as const }],
  ])('%s', async (_what, more) => {
    use(capture(more));
    await send(node.url('both'), call({ id: 'a' }));
    expect(await all()).toEqual([]);
  });

  test('of what is not authorized', async () => {
    use(capture());
    await send(node.url('both'), call({ id: 'a' }, 'unknown'));
    expect(await all()).toEqual([]);
  });
});

describe.each([
  ['modern', (values: object) => call(values)],
  ['legacy', (values: object) => legacy('tools/call', { name: 'count', arguments: values })],
] as const)('of a %s client', (_era, calling) => {
  test.each(['both', 'strict'])('request and answer are captured as it sent and got them, on %s', async (slug) => {
    use(capture());
    const { body, headers } = calling({ id: 'a', note: '  spaced  ', list: [1, { b: 'ünï' }] });
    const spaced = body.replace('"params":', ' "params" :\t');
    const answer = await send(node.url(slug), { body: spaced, headers });
    expect(open(await captured('request'))).toEqual([spaced]);
    const messages = open(await captured('response'));
    expect(messages).toEqual(messagesIn(answer));
    const opened = node.records.find((record) => record.type === 'opened');
    expect(opened).toMatchObject({ capture: { request: 'captures', response: 'captures' } });
    expect(await captured('response')).toMatchObject({
      eventId: opened?.type === 'opened' ? opened.eventId : '',
      policyId: 'captures',
      serverId: `server-${slug}`,
      principalId: 'first',
      method: 'tools/call',
      target: { kind: 'tool', name: 'count' },
      messagesOmitted: 0,
      omission: null,
      redactions: 0,
    });
  });
});

test('through a bridge the client’s side of the exchange is captured', async () => {
  use(capture());
  const sent = call({ id: 'a' });
  const answer = await send(node.url('old'), sent);
  expect(open(await captured('request'))).toEqual([sent.body]);
  expect(open(await captured('response'))).toEqual(messagesIn(answer));
});

test('only the directions that the policy and its match name are captured, by the first policy that does', async () => {
  const requests = capture({ id: 'requests', match: { ...policyMatchDefaults, directions: ['request'] } });
  const both = capture({ id: 'both' });
  node.configure(configuration([requests, both]));
  await send(node.url('both'), call({ id: 'a' }));
  expect(await captured('request')).toMatchObject({ policyId: 'requests' });
  expect(await captured('response')).toMatchObject({ policyId: 'both' });
  expect(node.payloads).toHaveLength(2);
});

test('secrets are taken out before anything is sealed: found ones, named ones, and what the schema of the tool says', async () => {
  use(capture());
  const values = { id: 'a', note: `my ${token}`, clientSecret: 'x1', answer: 'blue', plain: 'kept' };
  await send(node.url('both'), call(values, 'other'));
  const [message = ''] = open(await captured('request'));
  expect(JSON.parse(message).params.arguments).toEqual({
    id: 'a',
    note: 'my [redacted githubToken]',
    clientSecret: '[redacted secret member]',
    answer: '[redacted secret member]',
    plain: 'kept',
  });
  expect((await captured('request')).redactions).toBe(3);
});

test('a secret in the URI of a resource does not stand in clear beside what is sealed', async () => {
  use(capture());
  for (const [uri, name] of [
    [`test://r?key=${token}`, '[redacted]'],
    ['test://r', 'test://r'],
  ] as const) {
    node.payloads.length = 0;
    await send(node.url('both'), modern('resources/read', { uri }));
    expect((await captured('request')).target).toEqual({ kind: 'resource', name });
    await node.captures.settled(10_000);
    expect(JSON.stringify(node.payloads)).not.toContain(token);
  }
});

test('a secret that a stream cuts over two events is taken out of what is kept of it', async () => {
  use(capture());
  const progress = (message: string) => ({ method: 'notifications/progress', params: { progressToken: 1, message } });
  const result = { resultType: 'complete', content: [{ type: 'text', text: 'done' }] };
  streaming(progress(`it is ${token.slice(0, 20)}`), progress(token.slice(20)), { id: 1, result });
  const answer = await send(node.url('both'), call({ id: 'a' }));
  expect(eventsOf(answer.text)).toHaveLength(3);
  const messages = open(await captured('response'));
  expect(messages).toHaveLength(3);
  expect(messages.join()).not.toContain(token.slice(0, 20));
  expect(messages.join()).not.toContain(token.slice(20));
});

test('of a stream the beginning is kept, as much as the policy says, and the rest is counted', async () => {
  use(capture({}, 1_024));
  const progress = (at: number) => ({
    method: 'notifications/progress',
    params: { progressToken: 1, progress: at, message: 'word '.repeat(60) },
  });
  const messages = Array.from({ length: 10 }, (_, at) => progress(at));
  streaming(...messages, { id: 1, result: { resultType: 'complete', content: [] } });
  await send(node.url('both'), call({ id: 'a' }));
  const record = await captured('response');
  expect(record).toMatchObject({ messages: 2, messagesOmitted: 9, omission: null });
  expect(record.bytes).toBeGreaterThan(3_000);
  expect(open(record).map((message) => JSON.parse(message).params.progress)).toEqual([0, 1]);
});

describe('nothing but the size is kept', () => {
  test('of what is larger than the policy keeps', async () => {
    use(capture({}, 1_024));
    const { body, headers } = call({ id: 'a', note: 'word '.repeat(1_000) });
    await send(node.url('both'), { body, headers });
    expect(await captured('request')).toMatchObject({
      omission: 'tooLarge',
      sealed: null,
      messages: 0,
      messagesOmitted: 1,
      bytes: body.length,
    });
  });

  test('where the detector of secrets fails', async () => {
    const failing = await startPipelineNode(
      configuration([capture()], { capture: { seal: () => Promise.reject(new Error('no thread')) } }),
    );
    await send(failing.url('both'), call({ id: 'a' }));
    await waitFor('both payloads', () => failing.payloads.length === 2 || undefined);
    expect(failing.payloads.map(({ omission, sealed }) => ({ omission, sealed }))).toEqual(
      Array.from({ length: 2 }, () => ({ omission: 'notInspected', sealed: null })),
    );
    await failing.stop();
  });

  test('where the configuration has no key to seal with', async () => {
    node.configure({ ...configuration([capture()]), payloadKey: undefined } as unknown as TestConfiguration);
    await send(node.url('both'), call({ id: 'a' }));
    expect(await captured('request')).toMatchObject({ omission: 'noKey', sealed: null });
  });

  test('where the node has no memory, or no room on its disk, for it', async () => {
    const full = await startPipelineNode(configuration([capture()], { capture: { heldBytesMax: 100 } }));
    await send(full.url('both'), call({ id: 'a', note: 'word '.repeat(50) }));
    const record = await waitFor('the request', () => full.payloads.find(({ direction }) => direction === 'request'));
    expect(record).toMatchObject({ omission: 'overloaded', sealed: null });
    await full.stop();
    const kept: PayloadRecord[] = [];
    const append = (one: object): Promise<void> => Promise.resolve(void kept.push(one as PayloadRecord));
    const noRoom = await startPipelineNode(
      configuration([capture()], { capture: { spool: { append, hasRoomFor: () => false } } }),
    );
    await send(noRoom.url('both'), call({ id: 'a' }));
    await waitFor('both payloads', () => kept.length === 2 || undefined);
    expect(kept.map(({ omission }) => omission)).toEqual(['spoolFull', 'spoolFull']);
    await noRoom.stop();
  });
});

test('a flood of small messages is kept within the bound of memory, and told where it was not', async () => {
  let answer = (): void => undefined;
  const free = new Promise<void>((resolve) => (answer = resolve));
  const seal: PayloadCaptureOptions['seal'] = (job) => free.then(() => sealMessages(job, () => 0));
  const flooded = await startPipelineNode(configuration([capture()], { capture: { heldBytesMax: 16_384, seal } }));
  for (let sent = 0; sent < 12; sent += 1) await send(flooded.url('both'), call({ id: 'a' }));
  expect(flooded.captures.heldBytes).toBeLessThanOrEqual(16_384);
  answer();
  await waitFor('all payloads', () => flooded.payloads.length === 24 || undefined);
  const kept = flooded.payloads.filter(({ omission }) => omission === null);
  expect(kept.length).toBeGreaterThan(2);
  // What is kept of one takes more than its few bytes.
  expect(kept.length).toBeLessThan(10);
  expect(flooded.payloads.filter(({ omission }) => omission === 'overloaded')).toHaveLength(24 - kept.length);
  expect(await waitFor('nothing is held', () => flooded.captures.heldBytes === 0 || undefined)).toBe(true);
  await flooded.stop();
});

test('what a policy blocks is captured as it came, and what it redacts as it went on', async () => {
  const rules = (action: 'block' | 'redact'): Partial<PolicyEntry> => ({
    rules: [{ detector: 'personalData', action, severityMin: null, categories: [] }],
  });
  use(capture(rules('block')));
  const sent = call({ id: 'a', note: 'to jane.doe@example.org' });
  expect((await send(node.url('both'), sent)).json.error).toMatchObject({ code: 1023 });
  expect(open(await captured('request'))).toEqual([sent.body]);
  const refused = await waitFor('the record', () => node.records.find(({ type }) => type === 'refused'));
  expect(refused).toMatchObject({ capture: { request: 'captures', response: null } });
  expect(node.payloads).toHaveLength(1);
  node.payloads.length = 0;
  use(capture(rules('redact')));
  await send(node.url('both'), sent);
  const [message = ''] = open(await captured('request'));
  expect(JSON.parse(message).params.arguments.note).toBe('to [redacted email]');
});

test('what is captured tells nothing to who has no private key, not even the node', async () => {
  use(capture());
  await send(node.url('both'), call({ id: 'a', note: 'a canary of the test' }));
  await captured('response');
  expect(JSON.stringify([node.payloads, node.records])).not.toContain('canary');
  const record = await captured('request');
  const other = { ...record, principalId: 'another' };
  expect(
    openPayload(key, payloadIdentity('node-1', other, 'key-1'), record.sealed ?? { wrappedKey: '', content: '' }),
  ).toBe(undefined);
});

test('the calls of others of the same server are captured as theirs', async () => {
  use(capture());
  const { body, headers } = call({ id: 'a' });
  await send(node.url('both'), { body, headers: { ...headers, authorization: `Bearer ${otherKey}` } });
  expect(await captured('request')).toMatchObject({ principalId: 'another' });
});

test('no bytes stay in memory when exchanges have ended, however they ended', async () => {
  use(capture());
  upstream.intercept((_request, response) => {
    response.destroy();
    return true;
  });
  await send(node.url('both'), call({ id: 'a' }));
  upstream.intercept(() => false);
  await send(node.url('strict'), call({ id: 'a' }));
  node.failAudit(true);
  await send(node.url('strict'), call({ id: 'a' }));
  node.failAudit(false);
  expect(await waitFor('all is in the spool', () => node.captures.heldBytes === 0 || undefined)).toBe(true);
});
