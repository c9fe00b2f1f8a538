import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import postgres from 'postgres';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { waitFor } from '../kit/condition.ts';
import { createReceiver } from '../kit/sample-webhook-receiver.ts';
import { saying, startWebhookReceiver, type WebhookReceiver } from '../kit/webhook-receiver.ts';

let plane: TestControlPlane;
let receiver: WebhookReceiver;
let sql: postgres.Sql;

const fields = `id name url mode events failMode content deadlineMs payloadBytesMax mutablePaths algorithm revision
  signingKeys { id publicKey notAfter }`;
const secret = `whsec_${Buffer.from('0123456789abcdef0123456789abcdef').toString('base64')}`;

beforeAll(async () => {
  plane = await startTestControlPlane({ environment: { SALLYPORT_EGRESS_ALLOW: '127.0.0.0/8:1-65535' } });
  receiver = await startWebhookReceiver();
  sql = postgres(plane.databaseUrl, { max: 1, onnotice: () => undefined });
});
afterAll(async () => {
  await sql.end();
  await receiver.stop();
  await plane.stop();
});
beforeEach(() => {
  receiver.deliveries.length = 0;
  receiver.answer(saying({ decision: 'allow' }));
});

type Input = Readonly<Record<string, unknown>>;
interface Made {
  readonly id: string;
  readonly revision: number;
  readonly signingKeys: readonly {
    readonly id: string;
    readonly publicKey: string | null;
    readonly notAfter: string | null;
  }[];
}

function issue(name: 'createWebhook' | 'rotateWebhookKey', input: Input) {
  const type = name === 'createWebhook' ? 'CreateWebhookInput' : 'RotateWebhookKeyInput';
  return plane.ask(`mutation ($input: ${type}!) { result: ${name}(input: $input) { secret webhook { ${fields} } } }`, {
    input,
  });
}
const create = (input: Input = {}) =>
  issue('createWebhook', { name: 'hook', url: receiver.url, events: ['REQUEST'], ...input });

async function made(input: Input = {}): Promise<Made & Input> {
  const { data, errors } = await create(input);
  expect(errors).toEqual([]);
  return data.result.webhook as Made & Input;
}

function change(name: 'updateWebhook' | 'deleteWebhook', input: Input) {
  const type = name === 'updateWebhook' ? 'UpdateWebhookInput' : 'DeleteWebhookInput';
  return plane.ask(`mutation ($input: ${type}!) { result: ${name}(input: $input) { ${fields} } }`, { input });
}

function tested(input: Input) {
  return plane.ask(
    `mutation ($input: TestWebhookInput!) {
      result: testWebhook(input: $input) { event sent failure status decision reasonCode durationMs }
    }`,
    { input },
  );
}

async function violations(answer: ReturnType<typeof create>): Promise<string[]> {
  const { errors } = await answer;
  expect(errors[0]?.extensions.code).toBe('INVALID_INPUT');
  return (errors[0]?.extensions.violations ?? []).map(({ path, message }) => `${path}: ${message}`);
}

describe('a webhook', () => {
  test('is made with sane defaults: in shadow, closed, redacted, changing nothing; its secret is shown once', async () => {
    const { data } = await create({ name: 'ask security' });
    expect(data.result).toMatchObject({
      secret: expect.stringMatching(/^whsec_/),
      webhook: {
        name: 'ask security',
        mode: 'SHADOW',
        failMode: 'CLOSED',
        content: 'REDACTED',
        deadlineMs: 500,
        mutablePaths: [],
        algorithm: 'HMAC',
        revision: 1,
      },
    });
    const shown = String(data.result.secret).slice('whsec_'.length);
    const dump = JSON.stringify([
      await sql`select * from webhooks`,
      await sql`select * from audit_events`,
      await sql`select * from config_documents`,
    ]);
    expect(dump).not.toContain(shown);
  });

  test('takes a secret that is brought along, and shows a public key where there is no secret to show', async () => {
    expect((await create({ secret })).data.result.secret).toBeNull();
    const { data } = await create({ algorithm: 'ED25519' });
    expect(data.result.secret).toBeNull();
    expect(data.result.webhook.signingKeys[0].publicKey).toMatch(/^whpk_[A-Za-z0-9+/]{43}=$/);
  });

  test('leaves nothing behind by a dry run, and is made once for one idempotency key', async () => {
    const before = await sql`select count(*)::int as count from webhooks`;
    const tried = await create({ dryRun: true });
    expect(tried.data.result).toMatchObject({ secret: null, webhook: { name: 'hook' } });
    expect(await sql`select count(*)::int as count from webhooks`).toEqual(before);
    const [first, second] = [await made({ idempotencyKey: 'once' }), await made({ idempotencyKey: 'once' })];
    expect(second.id).toBe(first.id);
  });

  test('is not made again, nor told of, under a used idempotency key with another secret', async () => {
    const brought = await made({ idempotencyKey: 'brought', secret });
    expect((await made({ idempotencyKey: 'brought', secret })).id).toBe(brought.id);
    const other = `whsec_${Buffer.alloc(32, 9).toString('base64')}`;
    const { errors } = await create({ idempotencyKey: 'brought', secret: other });
    const violation = { path: 'input.idempotencyKey', message: 'was used before with another input' };
    expect(errors[0]?.extensions).toMatchObject({ code: 'INVALID_INPUT', violations: [violation] });
  });

  test('is changed and deleted under its revision, each with an audit event', async () => {
    const { id } = await made();
    const changed = await change('updateWebhook', { id, expectedRevision: 1, mode: 'ENFORCE', failMode: 'OPEN' });
    expect(changed.data.result).toMatchObject({ mode: 'ENFORCE', failMode: 'OPEN', revision: 2 });
    const stale = await change('updateWebhook', { id, expectedRevision: 1, mode: 'OFF' });
    expect(stale.errors[0]?.extensions.code).toBe('CONFLICT');
    expect((await change('deleteWebhook', { id, expectedRevision: 2 })).errors).toEqual([]);
    const events = await sql`select action from audit_events where object_id = ${id} order by time, id`;
    expect(events.map(({ action }) => action)).toEqual(['webhook.create', 'webhook.update', 'webhook.delete']);
  });

  test('says all that is wrong at once', async () => {
    expect(
      await violations(
        create({
          name: '',
          url: 'http://hooks.example/inspect',
          events: [],
          deadlineMs: 1,
          payloadBytesMax: 1,
          mutablePaths: ['/params/name', '/params/arguments/_meta', 'params'],
          secret: 'whsec_c2hvcnQ=',
        }),
      ),
    ).toEqual([
      'input.name: must not be empty',
      'input.deadlineMs: must be 50 to 10000',
      'input.payloadBytesMax: must be 1024 to 4194304',
      'input.events: must name at least one event',
      expect.stringContaining('input.mutablePaths[0]: must be at or below one of /params/arguments'),
      'input.mutablePaths[1]: must not go through _meta',
      expect.stringContaining('input.mutablePaths[2]: must be a JSON pointer'),
      'input.url: must start with https:// unless it leads to this machine itself',
      'input.secret: must be whsec_ and 24 to 64 random bytes in base64',
    ]);
    expect(await violations(create({ url: 'https://169.254.169.254/' }))).toEqual([
      expect.stringContaining('input.url: points to a metadata service'),
    ]);
    expect(await violations(create({ algorithm: 'ED25519', secret }))).toEqual([
      expect.stringContaining('input.secret: only HMAC takes a secret'),
    ]);
  });

  test('is named by policies, once each, and not deleted as long as one names it', async () => {
    const { id } = await made();
    const policy = (webhookIds: readonly string[]) =>
      plane.ask(
        `mutation ($input: CreatePolicyInput!) { result: createPolicy(input: $input) { id webhookIds webhookBudgetMs } }`,
        { input: { name: 'asks', rules: [], webhookIds, webhookBudgetMs: 1_000 } },
      );
    expect((await policy([id])).data.result).toMatchObject({ webhookIds: [id], webhookBudgetMs: 1_000 });
    const nobody = '01999999-0000-7000-8000-000000000000';
    expect(await violations(policy([id, id, nobody]))).toEqual([
      'input.webhookIds[1]: is given twice',
      'input.webhookIds[2]: there is no such webhook',
    ]);
    expect(await violations(change('deleteWebhook', { id }))).toEqual([
      'input.id: the policy "asks" names it: take it out there first',
    ]);
  });

  test('reaches nodes with its keys in a document that is stored sealed', async () => {
    const { id } = await made({ mode: 'ENFORCE', secret });
    const published = await waitFor('the webhook to be published', async () => {
      const rows = await sql`select d.sealed, d.body from config_entries e join config_documents d on d.hash = e.hash
        where e.key = 'webhooks'`;
      const [row] = rows;
      return row === undefined ? undefined : row;
    });
    expect(published).toMatchObject({ sealed: true });
    expect(JSON.stringify(published)).not.toContain(id);
  });
});

describe('a rotation', () => {
  test('has both keys sign until the overlap is over', async () => {
    const { id } = await made({ secret });
    const { data } = await issue('rotateWebhookKey', { id, expectedRevision: 1, overlapSeconds: 3600 });
    const [next, former] = data.result.webhook.signingKeys as Made['signingKeys'];
    expect(next?.notAfter).toBeNull();
    expect(Date.parse(former?.notAfter ?? '')).toBeGreaterThan(Date.now() + 3_500_000);
    expect((await tested({ id })).data.result).toMatchObject({ failure: null, decision: 'allow' });
    const [delivery] = receiver.deliveries;
    const headers = delivery?.headers as Record<string, string>;
    for (const key of [secret, String(data.result.secret)]) new Webhook(key).verify(delivery?.body ?? '', headers);
  });

  test('without an overlap leaves the new key alone', async () => {
    const { id } = await made({ secret });
    const { data } = await issue('rotateWebhookKey', { id, overlapSeconds: 0 });
    expect(data.result.webhook.signingKeys).toHaveLength(1);
    await tested({ id });
    const [delivery] = receiver.deliveries;
    const headers = delivery?.headers as Record<string, string>;
    expect(() => new Webhook(secret).verify(delivery?.body ?? '', headers)).toThrow('No matching signature');
  });
});

describe('a trial', () => {
  test('sends a sample whatever the mode, and tells answer and time', async () => {
    const { id } = await made({ mode: 'OFF', events: ['REQUEST', 'RESPONSE'] });
    receiver.answer(saying({ decision: 'deny', reasonCode: 'no.samples' }));
    const { data, errors } = await tested({ id, event: 'RESPONSE' });
    expect(errors).toEqual([]);
    expect(data.result).toMatchObject({
      event: 'RESPONSE',
      failure: null,
      status: 200,
      decision: 'deny',
      reasonCode: 'no.samples',
    });
    expect(data.result.durationMs).toBeGreaterThan(0);
    expect(receiver.deliveries[0]?.body).toBe(data.result.sent);
    const events = await sql`select action from audit_events where object_id = ${id} order by time, id`;
    expect(events.map(({ action }) => action)).toEqual(['webhook.create', 'webhook.test']);
  });

  test('tells why an answer would not count, and sends nothing on a dry run', async () => {
    const { id } = await made();
    receiver.answer((_delivery, response) => {
      response.writeHead(302, { location: 'https://elsewhere.example/' });
      response.end();
    });
    expect((await tested({ id })).data.result).toMatchObject({ failure: 'redirect', status: 302, decision: null });
    receiver.deliveries.length = 0;
    expect((await tested({ id, dryRun: true })).data.result).toMatchObject({ failure: null, status: null });
    expect(receiver.deliveries).toEqual([]);
  });
});

describe('the receiver of the guide', () => {
  test('is the one that is run here', () => {
    const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
    expect(read('docs/guides/webhooks.md')).toContain(read('tests/kit/sample-webhook-receiver.ts'));
  });

  test('verifies what it is sent and answers with a verdict that counts', async () => {
    const other = `whsec_${Buffer.from('another secret of 32 characters.').toString('base64')}`;
    for (const [known, expected] of [
      [secret, { failure: null, decision: 'allow', reasonCode: 'nothing' }],
      [other, { failure: 'status', status: 401, decision: null }],
    ] as const) {
      const server = createReceiver(known);
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const { port } = server.address() as AddressInfo;
      const { id } = await made({ url: `http://127.0.0.1:${port}/`, secret, deadlineMs: 10_000 });
      expect((await tested({ id })).data.result).toMatchObject(expected);
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  });
});
