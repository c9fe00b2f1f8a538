import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  AuditDeliveryService,
  deliveryCursors,
  deliveryFailingMsMax,
  deliveryOf,
  openDelivery,
  restartDelivery,
} from '@sallyport/control-plane/audit';
import { type AuditRecord, permissions } from '@sallyport/schema';
import { systemClock, uuidv7 } from '@sallyport/schema/platform';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane } from '../kit/control-plane.ts';
import { Chain, closedRecord, log, openedRecord, refusedRecord, startStore, type Store } from './audit-kit.ts';

interface Sent {
  readonly id: string;
  readonly body: string;
  readonly events: readonly {
    readonly nodeId: string;
    readonly sequence: number;
    readonly line: { readonly record: AuditRecord };
  }[];
}

let store: Store;
let webhookId: string;
let readerId: string;
let nowMs: number;
let mayRead: boolean;
let isOff: boolean;
let isUnusable: boolean;
let bytesMax: number;
let failure: string | null;
let sent: Sent[];
const stopped: string[] = [];
const unusable: string[] = [];

const clock = { now: () => nowMs, monotonic: () => systemClock.monotonic() };
const systemContext = {
  actor: {
    principalId: '00000000-0000-0000-0000-000000000000',
    name: 'audit delivery',
    kind: 'system' as const,
    keyId: null,
    permissions: new Set(permissions),
    limited: [],
    groupIds: new Set<string>(),
  },
  authorize: () => undefined,
  serverScope: () => 'all' as const,
  clock,
  log,
};

/** As a process of the control plane runs it, over a receiver of the test's own. */
function service(onSend: () => Promise<void> = () => Promise.resolve()): AuditDeliveryService {
  return new AuditDeliveryService({
    database: store.database,
    targetOf: () =>
      Promise.resolve(
        isUnusable
          ? 'unusable'
          : isOff
            ? undefined
            : {
                bytesMax,
                send: async ({ id, body }) => {
                  const text = body.toString('utf8');
                  const { events } = (JSON.parse(text) as { data: { events: Sent['events'] } }).data;
                  sent.push({ id, body: text, events });
                  await onSend();
                  return { failure };
                },
              },
      ),
    mayRead: () => Promise.resolve(mayRead),
    onUnusable: (id) => unusable.push(id),
    onStopped: (id) => stopped.push(id),
    systemContext,
    clock,
    log,
    random: () => 1,
  });
}

beforeAll(async () => {
  store = await startStore();
});
afterAll(() => store.stop());

const state = async () => {
  const row = await deliveryOf(store.database.db, webhookId);
  if (row === undefined) throw new Error('there is no delivery');
  return row;
};
const placesOf = (batches: readonly Sent[], chain: Chain): number[] =>
  batches.flatMap(({ events }) =>
    events.filter(({ nodeId }) => nodeId === chain.signer.nodeId).map(({ sequence }) => sequence),
  );
const upTo = (last: number): number[] => Array.from({ length: last }, (_, index) => index + 1);

async function written(count: number, more: Parameters<typeof refusedRecord>[0] = {}): Promise<Chain> {
  const chain = new Chain();
  for (let n = 0; n < count; n++) chain.add(refusedRecord(more));
  await store.ingest.ingest(chain.batch());
  return chain;
}

describe('audit events', () => {
  /** A webhook that is told of what comes from now on. */
  beforeEach(async () => {
    nowMs = systemClock.now();
    [webhookId, readerId] = [uuidv7(nowMs), uuidv7(nowMs)];
    [mayRead, isOff, isUnusable, bytesMax, failure, sent] = [true, false, false, 1_048_576, null, []];
    unusable.length = 0;
    const { raw, db } = store.database;
    await raw`insert into principals (id, kind, name, issuer, subject)
      values (${readerId}, 'user', 'reader', 'local', ${readerId})`;
    await raw`insert into webhooks (id, name, url, mode, events, fail_mode, content, deadline_ms, payload_bytes_max,
        algorithm, signing_keys)
      values (${webhookId}, 'told', 'https://told.example/', 'enforce', '{auditBatch}', 'closed', 'redacted', 500, 1024,
        'hmac', '[]')`;
    await raw`delete from audit_deliveries`;
    await db.transaction((tx) => openDelivery(tx, webhookId, readerId));
  });

  test('are sent as they were written, in the order of each chain, in batches of at most 100', async () => {
    const opened = openedRecord();
    const first = new Chain().add(opened, closedRecord(opened));
    await store.ingest.ingest(first.batch());
    const second = await written(250);
    await service().run();
    expect(sent.map(({ events }) => events.length)).toEqual([100, 100, 52]);
    expect(placesOf(sent, first)).toEqual([1, 2]);
    expect(placesOf(sent, second)).toEqual(upTo(250));
    for (const line of first.lines) expect(sent[0]?.body).toContain(`"line":${line}`);
    expect(await state()).toMatchObject({ eventsDelivered: 252, attempts: 0, failingSince: null, batch: null });
    const cursors = await deliveryCursors(store.database.db, webhookId);
    expect(cursors.find(({ epoch }) => epoch === second.epoch)).toMatchObject({ sequence: 250 });
  });

  test('of before a webhook was told are not sent, and none twice', async () => {
    const before = await written(3);
    await store.database.raw`delete from audit_deliveries`;
    await store.database.db.transaction((tx) => openDelivery(tx, webhookId, readerId));
    const after = await written(3);
    await service().run();
    await service().run();
    expect(placesOf(sent, before)).toEqual([]);
    expect(placesOf(sent, after)).toEqual([1, 2, 3]);
  });

  test('survive an outage: the same batch under the same id until it is taken, then all that came meanwhile', async () => {
    const early = await written(2);
    failure = 'status';
    await service().run();
    const late = await written(2);
    await service().run();
    expect(sent, 'nothing is tried before its time').toHaveLength(1);
    nowMs += 5_000;
    await service().run();
    expect(await state()).toMatchObject({ attempts: 2, failure: 'status', nextAttemptAt: new Date(nowMs + 10_000) });
    nowMs += 10_000;
    failure = null;
    await service().run();
    expect(new Set(sent.slice(0, 3).map(({ id, body }) => `${id} ${body}`)).size).toBe(1);
    expect(placesOf(sent.slice(2), early)).toEqual([1, 2]);
    expect(placesOf(sent.slice(2), late)).toEqual([1, 2]);
  });

  test('are sent by one process at a time, and again where one died before it knew that they were taken', async () => {
    const chain = await written(2);
    const { promise, resolve } = Promise.withResolvers<void>();
    const hanging = service(() => promise).run();
    await waitFor('the batch to be under way', () => (sent.length === 1 ? true : undefined));
    await service().run();
    expect(sent).toHaveLength(1);
    nowMs += 61_000;
    await service().run();
    expect(sent[1]?.id).toBe(sent[0]?.id);
    resolve();
    await hanging;
    await service().run();
    expect(placesOf(sent, chain)).toEqual([1, 2, 1, 2]);
    expect(await state()).toMatchObject({ eventsDelivered: 2 });
  });

  test('are not sent while who set it up may not read them, nor while the webhook is off', async () => {
    const chain = await written(1);
    mayRead = false;
    await service().run();
    expect(await state()).toMatchObject({ failure: 'readerNotPermitted', attempts: 1 });
    mayRead = true;
    isOff = true;
    nowMs += 5_000;
    await service().run();
    expect(sent).toEqual([]);
    isOff = false;
    nowMs += 30_000;
    await service().run();
    expect(placesOf(sent, chain)).toEqual([1]);
  });

  test('that cannot be sent since the webhook is unusable are told of once, on record, and sent when it is mended', async () => {
    const chain = await written(1);
    isUnusable = true;
    for (const wait of [0, 5_000, 10_000]) {
      nowMs += wait;
      await service().run();
    }
    expect(await state()).toMatchObject({ state: 'active', failure: 'webhookUnusable', attempts: 3 });
    expect(unusable).toEqual([webhookId]);
    const events = await store.database.raw`select action from audit_events where object_id = ${webhookId}`;
    expect(events.map(({ action }) => action as unknown)).toEqual(['webhook.suspendDelivery']);
    isUnusable = false;
    // Whoever changes it has it tried at once.
    await store.database.db.transaction((tx) => openDelivery(tx, webhookId, readerId));
    await service().run();
    expect(placesOf(sent, chain)).toEqual([1]);
    expect(await state()).toMatchObject({ failure: null, failingSince: null });
  });

  test('of more bytes than a batch may have come in several, and one that fits in none by its digest', async () => {
    const chain = await written(6);
    bytesMax = 2_500;
    await service().run();
    expect(sent.length).toBeGreaterThan(1);
    for (const { body } of sent) expect(body.length).toBeLessThan(3_000);
    expect(placesOf(sent, chain)).toEqual(upTo(6));
    sent = [];
    bytesMax = 100;
    await written(1);
    await service().run();
    expect(sent[0]?.events[0]).toMatchObject({ omitted: 'larger than a batch', sha256: expect.any(String) });
  });

  test('are given up, with an alarm and on record, after 72 hours in which nothing was taken', async () => {
    await written(1);
    failure = 'timeout';
    await service().run();
    nowMs += deliveryFailingMsMax;
    await service().run();
    expect(await state()).toMatchObject({ state: 'stopped', failure: 'timeout' });
    expect(stopped).toEqual([webhookId]);
    const events = await store.database.raw`select action from audit_events where object_id = ${webhookId}`;
    expect(events.map(({ action }) => action as unknown)).toEqual(['webhook.stopDelivery']);
    failure = null;
    nowMs += deliveryFailingMsMax;
    await service().run();
    expect(sent).toHaveLength(2);
    await store.database.db.transaction((tx) => restartDelivery(tx, webhookId, readerId, null));
    await service().run();
    expect(sent).toHaveLength(3);
    expect(await state()).toMatchObject({ state: 'active', failure: null });
  });

  test('are sent again from an instant on', async () => {
    const from = new Date(nowMs + 1_000);
    const chain = new Chain();
    for (const offset of [0, 1_000, 2_000]) chain.add(refusedRecord({ time: Math.floor(nowMs) + offset }));
    await store.ingest.ingest(chain.batch());
    await service().run();
    await store.database.db.transaction((tx) => restartDelivery(tx, webhookId, readerId, from));
    sent = [];
    await service().run();
    expect(placesOf(sent, chain)).toEqual([2, 3]);
  });
});

interface Told {
  readonly type: string;
  readonly data: { readonly events: readonly { readonly line: { readonly record: { readonly action?: string } } }[] };
}

/** A receiver that takes what is signed, and nothing else. */
async function startVerifying(secret: string) {
  const verified: Told[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const headers = request.headers as Record<string, string>;
      verified.push(new Webhook(secret).verify(Buffer.concat(chunks).toString('utf8'), headers) as Told);
      response.writeHead(202).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const stop = (): Promise<void> =>
    new Promise((resolve) => {
      server.closeAllConnections();
      server.close(() => resolve());
    });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, verified, stop };
}

test('a real control plane sends its own events signed, to whom may be told alone, and says how far', async () => {
  const plane = await startTestControlPlane({ environment: { SALLYPORT_EGRESS_ALLOW: '127.0.0.0/8:1-65535' } });
  const secret = `whsec_${Buffer.from('0123456789abcdef0123456789abcdef').toString('base64')}`;
  const { url, verified, stop } = await startVerifying(secret);
  try {
    const document = `mutation ($input: CreateWebhookInput!) { result: createWebhook(input: $input) { webhook { id } } }`;
    const input = { name: 'told', url, events: ['AUDIT_BATCH'], secret };
    const issued = await plane.ask(
      'mutation ($input: CreateApiKeyInput!) { result: createApiKey(input: $input) { secret } }',
      {
        input: {
          principalId: plane.ownerId,
          name: 'policies alone',
          scopes: ['API'],
          permissions: ['policy:read', 'policy:write'],
          expiresAt: new Date(systemClock.now() + 3_600_000).toISOString(),
        },
      },
    );
    expect(issued.errors).toEqual([]);
    const refused = await plane.ask(document, { input }, issued.data.result.secret as string);
    expect(refused.errors[0]?.extensions.code).toBe('FORBIDDEN');
    const made = await plane.ask(document, { input });
    expect(made.errors).toEqual([]);
    const webhook = made.data.result.webhook.id as string;
    await waitFor('the event of its making', () =>
      verified.some(({ data }) => data.events.some(({ line }) => line.record.action === 'webhook.create'))
        ? true
        : undefined,
    );
    expect(verified[0]?.type).toBe('mcp.audit.batch');
    expect(JSON.stringify(verified)).not.toContain(secret.slice(6));
    const shown = await waitFor('its cursor', async () => {
      const { data } = await plane.ask(`{ webhook(id: "${webhook}") { auditDelivery { state eventsDelivered failure }
        auditCursors { nodeId sequence } } }`);
      return data.webhook.auditDelivery.eventsDelivered > 0 ? data.webhook : undefined;
    });
    expect(shown).toMatchObject({
      auditDelivery: { state: 'ACTIVE', failure: null },
      auditCursors: expect.arrayContaining([expect.objectContaining({ nodeId: 'control-plane' })]),
    });
    const restart = (more: object) =>
      plane.ask('mutation ($input: RestartAuditDeliveryInput!) { restartAuditDelivery(input: $input) { id } }', {
        input: { id: webhook, ...more },
      });
    expect((await restart({ from: new Date(systemClock.now() - 60_000).toISOString() })).errors).toEqual([]);
    await waitFor('the event again', () =>
      verified.filter(({ data }) => data.events.some(({ line }) => line.record.action === 'webhook.create')).length > 1
        ? true
        : undefined,
    );
  } finally {
    await stop();
    await plane.stop();
  }
});
