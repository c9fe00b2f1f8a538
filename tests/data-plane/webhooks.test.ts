import type { DefinitionEntry, PolicyEntry, WebhookEntry } from '@sallyport/schema';
import { definitionDigest, policyMatchDefaults } from '@sallyport/schema';
import { newWebhookKey, webhookPublicKey } from '@sallyport/schema/platform';
import { createPublicKey, verify } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import {
  answering as raw,
  receiverFailures,
  saying,
  startWebhookReceiver,
  type WebhookReceiver,
} from '../kit/webhook-receiver.ts';
import { type PipelineNode, startPipelineNode, type TestConfiguration, testKey } from './pipeline-node.ts';
import { answerWith, askingPolicy, verdictsOf, webhookEntry } from './policy-kit.ts';
import { eventsOf, modern, send } from './requests.ts';

// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');
const secret = newWebhookKey('hmac');
const noteSchema = { type: 'object', properties: { note: { type: 'string', maxLength: 40 }, n: { type: 'integer' } } };

let upstream: FakeUpstream;
let receiver: WebhookReceiver;
let node: PipelineNode;

const hook = (more: Partial<WebhookEntry> = {}): WebhookEntry =>
  webhookEntry({ url: receiver.url, deadlineMs: 5_000, signingKeys: [{ secret, notAfter: null }], ...more });

function configuration(policies: readonly PolicyEntry[], webhooks: readonly WebhookEntry[]): TestConfiguration {
  const described: DefinitionEntry = {
    kind: 'tool',
    name: 'described',
    approvedDigests: [definitionDigest({ name: 'described' })],
    state: 'approved',
    labels: null,
    inputSchemas: [JSON.stringify(noteSchema)],
    paramHeaders: [[{ name: 'Note', path: ['note'], type: 'string' }]],
  };
  return {
    servers: [{ slug: 'asked', url: upstream.url, tools: ['count', 'other'], definitions: [described] }],
    grants: [{ server: 'asked', tools: ['*'], whenArguments: `!has(arguments.note) || arguments.note != 'denied'` }],
    policies,
    webhooks,
  };
}

beforeAll(async () => {
  upstream = await startFakeUpstream();
  receiver = await startWebhookReceiver();
  node = await startPipelineNode(configuration([], []));
});
afterAll(async () => {
  await node.stop();
  await receiver.stop();
  await upstream.stop();
});
beforeEach(() => {
  node.records.length = 0;
  receiver.deliveries.length = 0;
  receiver.answer(saying({ decision: 'allow' }));
  answering({ content: [{ type: 'text', text: 'the answer' }] });
});

function use(webhooks: readonly WebhookEntry[], ...policies: readonly PolicyEntry[]): void {
  node.configure(configuration(policies.length === 0 ? [askingPolicy()] : policies, webhooks));
}

const answering = (result: object): void => answerWith(upstream, result);
const verdicts = () => verdictsOf(node);
const long = '12345678901234567';
const call = (values: object, name = 'described') => modern('tools/call', { name, arguments: values });
const ask = (values: object = { note: 'a note' }, headers: Readonly<Record<string, string>> = {}) => {
  const request = call(values);
  const mirrored = 'note' in values && typeof values.note === 'string' ? { 'mcp-param-note': values.note } : {};
  // A number that no double holds, where the test asks for one.
  const body = request.body.replace('"long"', long);
  return send(node.url('asked'), { body, headers: { ...request.headers, ...mirrored, ...headers } });
};
const passed = (json: unknown): boolean => typeof json === 'object' && json !== null && 'result' in json;

describe.each(receiverFailures)('a receiver that %s', (_name, reason, answer) => {
  const deadlineMs = reason === 'timeout' ? 100 : 5_000;

  describe.each(['request', 'response'] as const)('about a %s', (direction) => {
    test.each([
      ['closed', { failMode: 'closed' }, false, 'block', 'enforce'],
      ['open', { failMode: 'open' }, true, 'allow', 'enforce'],
      ['shadow', { mode: 'shadow' }, true, 'block', 'shadow'],
    ] as const)('%s', async (_name, more, goesOn, decision, mode) => {
      const asked = hook({ events: [direction], deadlineMs, ...more });
      use([asked]);
      receiver.answer(answer);
      const before = upstream.requests.length;
      const { json: answered } = await ask();
      expect(answered).toMatchObject(goesOn ? { result: {} } : { error: { code: 1024 } });
      expect(upstream.requests.length - before).toBe(goesOn || direction === 'response' ? 1 : 0);
      expect(await verdicts()).toMatchObject([
        { detector: 'webhook', webhookId: 'hook', version: String(asked.version), direction, decision, mode, reason },
      ]);
    });
  });
});

describe('what is sent', () => {
  test('is signed as Standard Webhooks demand, by all keys that have not ended', async () => {
    const next = newWebhookKey('hmac');
    const ended = newWebhookKey('hmac');
    const signingKeys = [
      { secret: next, notAfter: null },
      { secret, notAfter: Date.now() + 60_000 },
      { secret: ended, notAfter: Date.now() - 1 },
    ];
    use([hook({ signingKeys, events: ['request'] })]);
    await ask();
    const [delivery] = receiver.deliveries;
    const headers = delivery?.headers as Record<string, string>;
    const body = delivery?.body ?? '';
    for (const key of [next, secret]) expect(new Webhook(`whsec_${key}`).verify(body, headers)).toBeTruthy();
    expect(() => new Webhook(`whsec_${ended}`).verify(body, headers)).toThrow('No matching signature');
    expect(() => new Webhook(`whsec_${secret}`).verify(`${body} `, headers)).toThrow('No matching signature');
  });

  test('is signed by Ed25519 where the webhook says so, to be verified by the public key', async () => {
    const seed = newWebhookKey('ed25519');
    use([hook({ algorithm: 'ed25519', signingKeys: [{ secret: seed, notAfter: null }], events: ['request'] })]);
    await ask();
    const [delivery] = receiver.deliveries;
    const headers: Readonly<Record<string, unknown>> = delivery?.headers ?? {};
    const body = delivery?.body ?? '';
    const raw = Buffer.from(webhookPublicKey(seed).slice('whpk_'.length), 'base64');
    const spki = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), raw]);
    const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
    const [kind, signature = ''] = String(headers['webhook-signature']).split(',');
    const signed = `${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${body}`;
    expect(kind).toBe('v1a');
    expect(verify(null, Buffer.from(signed), key, Buffer.from(signature, 'base64'))).toBe(true);
  });

  test('tells who asks whom for what, and nothing of the client’s headers or credentials', async () => {
    use([hook()]);
    await ask({ note: 'a note', n: 'long' });
    const [request, response] = receiver.deliveries;
    expect(request?.event).toMatchObject({
      type: 'mcp.request.inspect',
      contract: '1',
      data: {
        mode: 'enforce',
        boundary: 'client_to_upstream',
        principal: { id: 'first', type: 'serviceAccount' },
        client: { info: 'test/1', selfReported: true, address: '127.0.0.1', protocolVersion: '2026-07-28' },
        target: { slug: 'asked', kind: 'tool', name: 'described' },
        event: 'tools/call',
        node: { id: 'node-1', configRevision: 1 },
        content: 'full',
        message: { method: 'tools/call', params: { arguments: { note: 'a note' } } },
      },
    });
    // As it was written, not as a double would hold it.
    expect(request?.body).toContain(long);
    expect(response?.event).toMatchObject({
      type: 'mcp.response.inspect',
      data: { boundary: 'upstream_to_client', message: { result: { content: [{ text: 'the answer' }] } } },
    });
    for (const { body, headers } of receiver.deliveries) {
      expect(body).not.toContain(testKey);
      expect(headers['authorization']).toBeUndefined();
    }
  });

  test('has no secrets and personal data where it is to be redacted, and no message where the digest is all', async () => {
    use([hook({ content: 'redacted', events: ['request'] })]);
    await ask({ note: `it is ${token}` });
    expect(receiver.deliveries[0]?.body).not.toContain(token);
    expect(receiver.deliveries[0]?.event.data).toMatchObject({ content: 'redacted' });
    receiver.deliveries.length = 0;
    use([hook({ content: 'digest', events: ['request'] })]);
    await ask({ note: `it is ${token}` });
    expect(receiver.deliveries[0]?.body).not.toContain('it is');
    expect(receiver.deliveries[0]?.event.data).toMatchObject({ content: 'digest', sizeBytes: expect.any(Number) });
  });

  test('is redacted once for all webhooks that are asked about the same message', async () => {
    const redacted = { content: 'redacted', events: ['request'] } satisfies Partial<WebhookEntry>;
    const changing = hook({ id: 'changing', mutablePaths: ['/params/arguments'], ...redacted });
    const hooks = [changing, hook(redacted), hook({ id: 'other', ...redacted })];
    use(hooks, askingPolicy({ webhookIds: hooks.map(({ id }) => id) }));
    node.detected.length = 0;
    await ask({ note: `it is ${token}` });
    expect(receiver.deliveries.map(({ body }) => body.includes(token))).toEqual([false, false, false]);
    expect([...node.detected].sort()).toEqual(['personalData', 'secret']);
  });

  test('is nothing where a rule blocks before, where no policy names the webhook, and where it is off', async () => {
    const rules: PolicyEntry['rules'] = [{ detector: 'secret', action: 'block', severityMin: null, categories: [] }];
    use([hook()], askingPolicy({ rules }));
    await ask({ note: token });
    use([hook({ mode: 'off', signingKeys: [] })]);
    expect(passed((await ask()).json)).toBe(true);
    use([hook()], askingPolicy({ match: { ...policyMatchDefaults, tools: ['other'] } }));
    expect(passed((await ask()).json)).toBe(true);
    expect(receiver.deliveries).toEqual([]);
  });
});

describe('a verdict', () => {
  test('to deny blocks, with the reason in the record and not in the answer', async () => {
    use([hook({ events: ['request'] })]);
    receiver.answer(saying({ decision: 'deny', reasonCode: 'not.today' }));
    const { json: answered, text } = await ask();
    expect(answered).toMatchObject({ error: { code: 1023, data: { detectors: ['webhook'] } } });
    expect(text).not.toContain('not.today');
    expect(await verdicts()).toMatchObject([
      { decision: 'block', reason: 'not.today', durationMs: expect.any(Number) },
    ]);
  });

  test('to deny changes nothing in shadow, and where the policy is in shadow', async () => {
    receiver.answer(saying({ decision: 'deny' }));
    use([hook({ mode: 'shadow', events: ['request'] })]);
    expect(passed((await ask()).json)).toBe(true);
    use([hook({ events: ['request'] })], askingPolicy({ mode: 'shadow' }));
    expect(passed((await ask()).json)).toBe(true);
    expect(await verdicts()).toMatchObject([{ decision: 'block', mode: 'shadow' }]);
  });

  test('cannot be given as if there were none', async () => {
    use([hook({ events: ['request'] })]);
    receiver.answer(saying({ decision: 'deny', reasonCode: 'timeout' }));
    expect((await ask()).json).toMatchObject({ error: { code: 1023 } });
    expect(await verdicts()).toMatchObject([{ decision: 'block', reason: 'receiver.timeout' }]);
  });

  test('to allow is in the record too', async () => {
    use([hook({ events: ['request'] })]);
    receiver.answer(saying({ decision: 'allow', reasonCode: 'fine' }));
    expect(passed((await ask()).json)).toBe(true);
    expect(await verdicts()).toMatchObject([{ decision: 'pass', reason: 'fine', webhookId: 'hook' }]);
  });

  test('about each event of a stream holds for that event', async () => {
    use([hook({ events: ['response'] })]);
    upstream.intercept((request, response) => {
      const { id } = JSON.parse(request.body) as { id: unknown };
      const progress = { jsonrpc: '2.0', method: 'notifications/progress', params: { progressToken: 1, progress: 1 } };
      const result = {
        jsonrpc: '2.0',
        id,
        result: { resultType: 'complete', content: [{ type: 'text', text: 'bad' }] },
      };
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.end([progress, result].map((message) => `data: ${JSON.stringify(message)}\n\n`).join(''));
      return true;
    });
    receiver.answer((delivery, response) =>
      saying({ decision: delivery.body.includes('bad') ? 'deny' : 'allow' })(delivery, response),
    );
    const events = eventsOf((await ask()).text);
    expect(events[0]).toMatchObject({ method: 'notifications/progress' });
    expect(events[1]).toMatchObject({ error: { code: 1023 } });
    expect(receiver.deliveries).toHaveLength(2);
  });
});

const changing = (more: Partial<WebhookEntry> = {}) =>
  hook({ mutablePaths: ['/params/arguments'], events: ['request'], ...more });
const patching = (...patch: readonly object[]) => saying({ decision: 'modify', patch });
const replacing = (path: string, value: unknown) => ({ op: 'replace', path, value });
const received = () => JSON.parse(upstream.requests.at(-1)?.body ?? '{}') as { params: { arguments: unknown } };

describe('a change', () => {
  test('of arguments goes on, with every other byte and the headers that mirror it', async () => {
    use([changing()]);
    receiver.answer(patching(replacing('/params/arguments/note', 'another')));
    expect(passed((await ask({ note: 'a note', n: 'long' })).json)).toBe(true);
    expect(received().params.arguments).toMatchObject({ note: 'another' });
    expect(upstream.requests.at(-1)?.body).toContain(long);
    expect(upstream.requests.at(-1)?.headers['mcp-param-note']).toBe('another');
    expect(await verdicts()).toMatchObject([{ decision: 'modify', places: [{ path: '/params/arguments/note' }] }]);
  });

  test.each([
    ['of what it may not change', 'patchForbidden', replacing('/params/name', 'other'), {}],
    ['that brings a _meta along', 'patchForbidden', replacing('/params/arguments', { note: { _meta: {} } }), {}],
    ['of _meta', 'patchForbidden', replacing('/params/arguments/_meta', {}), {}],
    [
      'above what it may change',
      'patchForbidden',
      replacing('/params/arguments', {}),
      { mutablePaths: ['/params/arguments/note'] },
    ],
    ['where nothing is', 'patchInvalid', replacing('/params/arguments/absent', 'x'), {}],
    ['that does not fit the schema of the tool', 'argumentsInvalid', replacing('/params/arguments/note', 7), {}],
    ['of another operation', 'answerInvalid', { op: 'remove', path: '/params/arguments/note' }, {}],
  ])('%s is no verdict', async (_name, reason, operation, more) => {
    use([changing(more)]);
    receiver.answer(patching(operation));
    const before = upstream.requests.length;
    expect((await ask()).json).toMatchObject({ error: { code: 1024 } });
    expect(upstream.requests.length).toBe(before);
    expect(await verdicts()).toMatchObject([{ decision: 'block', reason }]);
  });

  test('happens wholly or not at all', async () => {
    use([changing({ failMode: 'open' })]);
    receiver.answer(
      patching(replacing('/params/arguments/note', 'another'), replacing('/params/arguments/n', 'no number')),
    );
    expect(passed((await ask({ note: 'a note', n: 1 })).json)).toBe(true);
    expect(received().params.arguments).toEqual({ note: 'a note', n: 1 });
  });

  test('of a call of a tool whose schema is not known is no verdict', async () => {
    use([changing()]);
    receiver.answer(patching(replacing('/params/arguments/note', 'another')));
    const answer = await send(node.url('asked'), call({ note: 'a note' }, 'count'));
    expect(answer.json).toMatchObject({ error: { code: 1024 } });
  });

  test('is authorized again: what the caller may not send does not go on for him', async () => {
    use([changing()]);
    receiver.answer(patching(replacing('/params/arguments/note', 'denied')));
    const before = upstream.requests.length;
    expect((await ask()).json).toHaveProperty('error');
    expect(upstream.requests.length).toBe(before);
  });

  test('is looked at by detectors and by the webhooks that change nothing, which see what goes on', async () => {
    const seen: string[] = [];
    const rules: PolicyEntry['rules'] = [{ detector: 'secret', action: 'redact', severityMin: null, categories: [] }];
    use(
      [changing(), hook({ id: 'second', events: ['request'] })],
      askingPolicy({ rules, webhookIds: ['second', 'hook'] }),
    );
    receiver.answer((delivery, response) => {
      const { note } = (delivery.event.data['message'] as ReturnType<typeof received>).params.arguments as {
        note: string;
      };
      seen.push(note);
      (note === 'a note' ? patching(replacing('/params/arguments/note', `${token}`)) : saying({ decision: 'allow' }))(
        delivery,
        response,
      );
    });
    await ask();
    expect(seen).toEqual(['a note', expect.stringContaining('[redacted')]);
    expect(received().params.arguments).toEqual({ note: seen[1] });
  });

  test('of an answer goes on to the client', async () => {
    use([hook({ mutablePaths: ['/result/content'], events: ['response'] })]);
    receiver.answer(patching(replacing('/result/content/0/text', 'another answer')));
    expect((await ask()).json).toMatchObject({ result: { content: [{ type: 'text', text: 'another answer' }] } });
  });

  test('of an answer leaves lists lists and texts texts', async () => {
    use([hook({ mutablePaths: ['/result/content'], events: ['response'] })]);
    receiver.answer(patching(replacing('/result/content', 'no list any more')));
    expect((await ask()).json).toMatchObject({ error: { code: 1024 } });
    expect(await verdicts()).toMatchObject([{ reason: 'patchInvalid' }]);
  });

  test('is not made in shadow', async () => {
    use([changing({ mode: 'shadow' })]);
    receiver.answer(patching(replacing('/params/arguments/note', 'another')));
    await ask();
    expect(received().params.arguments).toEqual({ note: 'a note' });
    expect(await verdicts()).toMatchObject([{ decision: 'modify', mode: 'shadow' }]);
  });
});

describe('a webhook', () => {
  test('that goes on failing is not asked for a while, which is a failure like any other', async () => {
    use([hook({ events: ['request'] })]);
    receiver.answer(raw(500, '{}'));
    for (let time = 0; time < 5; time++) await ask();
    node.records.length = 0;
    const before = receiver.deliveries.length;
    expect((await ask()).json).toMatchObject({ error: { code: 1024 } });
    expect(receiver.deliveries.length).toBe(before);
    expect(await verdicts()).toMatchObject([{ decision: 'block', reason: 'breakerOpen' }]);
  });

  test('that the configuration does not have, cannot sign, or may not see so much lets nothing through', async () => {
    for (const [webhooks, reason] of [
      [[], 'unknownWebhook'],
      [[hook({ events: ['request'], signingKeys: [{ secret, notAfter: 1 }] })], 'noSigningKey'],
      [[hook({ events: ['request'], payloadBytesMax: 1_024 })], 'payloadTooLarge'],
    ] as const) {
      node.records.length = 0;
      use(webhooks);
      expect((await ask({ note: 'x'.repeat(2_000) })).json).toMatchObject({ error: { code: 1024 } });
      expect(await verdicts()).toMatchObject([{ decision: 'block', reason }]);
    }
    expect(receiver.deliveries).toEqual([]);
  });

  test('of a chain whose time is up is a failure', async () => {
    use([hook({ events: ['request'] })], askingPolicy({ webhookBudgetMs: 50 }));
    receiver.answer(() => undefined);
    expect((await ask()).json).toMatchObject({ error: { code: 1024 } });
    expect(await verdicts()).toMatchObject([{ reason: 'timeout' }]);
  });
});
