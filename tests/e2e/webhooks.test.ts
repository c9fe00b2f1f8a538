import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { modern, send } from '../data-plane/requests.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { answering, saying, startWebhookReceiver, type WebhookReceiver } from '../kit/webhook-receiver.ts';

const changed = z.object({ id: z.string(), revision: z.number() });
const issued = z.object({ secret: z.string().nullable(), webhook: changed });
const secret = `whsec_${Buffer.from('0123456789abcdef0123456789abcdef').toString('base64')}`;

let upstream: FakeUpstream;
let receiver: WebhookReceiver;
let harness: Harness;
let url: string;
let authorization: string;
let webhookId: string;

/** A webhook made by GraphQL, in force on a node that asks it about requests. */
beforeAll(async () => {
  upstream = await startFakeUpstream();
  receiver = await startWebhookReceiver();
  harness = await startHarness({ upstreams: [upstream.url, receiver.url], nodes: 1 });
  const { administrator } = harness;
  const server = await administrator.registerServer('asked', upstream.url);
  const { key } = await administrator.createClient('client');
  await administrator.grant({ serverId: server.id, tools: fakeTools });
  const input = { name: 'ask', url: receiver.url, events: ['REQUEST'], mode: 'ENFORCE', secret, deadlineMs: 10_000 };
  const made = await administrator.mutate('createWebhook', input, 'secret webhook { id revision }', issued);
  webhookId = made.webhook.id;
  const policy = { name: 'ask', rules: [], mode: 'ENFORCE', webhookIds: [webhookId] };
  await administrator.mutate('createPolicy', policy, 'id revision', changed);
  await administrator.converged();
  authorization = `Bearer ${key}`;
  url = `${harness.entryOrigin}/mcp/asked`;
});
afterAll(async () => {
  await harness.stop();
  await receiver.stop();
  await upstream.stop();
});
beforeEach(() => {
  receiver.deliveries.length = 0;
  receiver.answer(saying({ decision: 'allow' }));
});

function call() {
  const { body, headers } = modern('tools/call', { name: 'count', arguments: { id: 'one' } });
  return send(url, { body, headers: { ...headers, authorization } });
}

async function set(input: object): Promise<void> {
  await harness.administrator.mutate('updateWebhook', { id: webhookId, ...input }, 'id revision', changed);
  await harness.administrator.converged();
}

test('a webhook lets a call pass, blocks it, and in shadow only tells; the audit trail has each verdict', async () => {
  expect((await call()).json.result).toBeDefined();
  receiver.answer(saying({ decision: 'deny', reasonCode: 'not.today' }));
  expect((await call()).json.error).toMatchObject({ code: 1023 });
  await set({ mode: 'SHADOW' });
  expect((await call()).json.result).toBeDefined();
  await set({ mode: 'ENFORCE' });
  const node = z.object({ verdicts: z.array(z.record(z.string(), z.unknown())).nullable() });
  const answer = z.object({ auditEvents: z.object({ edges: z.array(z.object({ node })) }) });
  const document = `{ auditEvents(first: 20, kind: EXCHANGE) { edges { node {
    verdicts { webhookId mode decision reason } } } } }`;
  const verdicts = await waitFor('the verdicts of the three calls', async () => {
    const { auditEvents } = await harness.administrator.api.ask(document, {}, answer);
    const found = auditEvents.edges.flatMap((edge) => edge.node.verdicts ?? []);
    return found.length >= 3 ? found : undefined;
  });
  expect(verdicts).toEqual(
    expect.arrayContaining([
      { webhookId, mode: 'ENFORCE', decision: 'PASS', reason: '' },
      { webhookId, mode: 'ENFORCE', decision: 'BLOCK', reason: 'not.today' },
      { webhookId, mode: 'SHADOW', decision: 'BLOCK', reason: 'not.today' },
    ]),
  );
});

test('while its key is rotated no call fails, and every delivery verifies by the key before and, later, by the next', async () => {
  const { administrator } = harness;
  let isRotating = true;
  const calls = (async () => {
    while (isRotating) expect((await call()).json.result).toBeDefined();
  })();
  const input = { id: webhookId, overlapSeconds: 3_600 };
  const next = await administrator.mutate('rotateWebhookKey', input, 'secret webhook { id revision }', issued);
  await administrator.converged();
  isRotating = false;
  await calls;
  await call();
  const verifies = (key: string) => (delivery: (typeof receiver.deliveries)[number]) => {
    try {
      new Webhook(key).verify(delivery.body, delivery.headers as Record<string, string>);
      return true;
    } catch {
      return false;
    }
  };
  expect(receiver.deliveries.every(verifies(secret))).toBe(true);
  expect(receiver.deliveries.slice(-1).every(verifies(next.secret ?? ''))).toBe(true);
});

test('a receiver that goes on failing is left alone for a while, and asked again after it', async () => {
  receiver.answer(answering(500, '{}'));
  for (let time = 0; time < 5; time++) expect((await call()).json.error).toMatchObject({ code: 1024 });
  const before = receiver.deliveries.length;
  expect((await call()).json.error).toMatchObject({ code: 1024 });
  expect(receiver.deliveries.length).toBe(before);
  receiver.answer(saying({ decision: 'allow' }));
  await waitFor('the receiver to be asked again', async () =>
    (await call()).json.result === undefined ? undefined : true,
  );
  expect(receiver.deliveries.length).toBeGreaterThan(before);
});
