import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { type ListingUpstream, startListingUpstream, toolNamed } from '../kit/listing-upstream.ts';
import { receiverFailures, saying, startWebhookReceiver, type WebhookReceiver } from '../kit/webhook-receiver.ts';

interface Seen {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly digests: readonly string[];
  readonly approvedDigests: readonly string[];
  readonly verdicts: readonly Record<string, unknown>[];
}
const fields = `id revision definitions(first: 20) { edges { node {
  id name state digests approvedDigests verdicts { digest webhookId webhookRevision decision reason durationMs }
} } }`;

let plane: TestControlPlane;
let upstream: ListingUpstream;
let receiver: WebhookReceiver;
let sql: postgres.Sql;
let webhookId: string;
let policyId: string;
let serverId: string;
let wordings = 0;

beforeAll(async () => {
  plane = await startTestControlPlane({ environment: { SALLYPORT_EGRESS_ALLOW: '127.0.0.0/8:1024-65535' } });
  [upstream, receiver] = [await startListingUpstream(), await startWebhookReceiver()];
  // One handshake is enough here.
  upstream.legacyRevisions = [];
  sql = postgres(plane.databaseUrl, { max: 1, onnotice: () => undefined });
  const created = await succeed(
    'createWebhook',
    'CreateWebhookInput',
    { name: 'definitions', url: receiver.url, events: ['DEFINITION'], mode: 'ENFORCE', deadlineMs: 5_000 },
    'webhook { id }',
  );
  webhookId = created.webhook.id;
  const policy = { name: 'ask about definitions', mode: 'ENFORCE', rules: [], webhookIds: [webhookId] };
  policyId = (await succeed('createPolicy', 'CreatePolicyInput', policy, 'id')).id;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
  await upstream.stop();
  await receiver.stop();
});

beforeEach(async () => {
  receiver.answer(saying({ decision: 'allow' }));
  await setHook({ mode: 'ENFORCE', failMode: 'CLOSED', content: 'REDACTED', deadlineMs: 5_000 });
});

/** A server in service with one tool, which approves what is new by itself. */
async function serve(): Promise<void> {
  sends(toolNamed('echo'));
  await register({ autoApproval: 'REVIEW' });
  await succeed('approveServer', 'ServerInput', { id: serverId }, 'id');
  receiver.deliveries.length = 0;
}

async function register(more: object): Promise<void> {
  const input = { slug: `asked-${wordings++}`, url: upstream.url, ...more };
  serverId = (await succeed('createServer', 'CreateServerInput', input, 'id')).id;
  await discover();
}

function run(name: string, type: string, input: object, selected: string) {
  return plane.ask(`mutation ($input: ${type}!) { result: ${name}(input: $input) { ${selected} } }`, { input });
}

async function succeed(name: string, type: string, input: object, selected: string) {
  const { data, errors } = await run(name, type, input, selected);
  expect(errors).toEqual([]);
  return data.result;
}

const setHook = (more: object) =>
  succeed('updateWebhook', 'UpdateWebhookInput', { id: webhookId, ...more }, 'revision');

async function discover(): Promise<Readonly<Record<string, Seen>>> {
  const { definitions } = await succeed('discoverServer', 'ServerInput', { id: serverId }, fields);
  return Object.fromEntries(definitions.edges.map(({ node }: { node: Seen }) => [node.name, node]));
}

function sends(...tools: readonly unknown[]): void {
  upstream.lists = { ...upstream.lists, tools };
}
const reworded = () => toolNamed('echo', `Echoes in other words, number ${wordings++}.`);

async function problems(definition: Seen | undefined): Promise<readonly string[]> {
  const input = { id: serverId, definitionIds: [definition?.id], digests: definition?.digests };
  const { errors } = await run('approveDefinitions', 'ApproveDefinitionsInput', input, 'id');
  return (errors[0]?.extensions.violations ?? []).map(({ message }) => message);
}

const askAgain = (more: object) =>
  succeed(
    'askWebhooksAboutDefinitions',
    'AskWebhooksInput',
    { id: serverId, ...more },
    'id state verdicts { decision reason }',
  );

describe.each(receiverFailures)('a receiver that %s', (_name, reason, answer) => {
  beforeAll(serve);
  test.each([
    ['closed', { failMode: 'CLOSED' }, 'DRIFTED'],
    ['open', { failMode: 'OPEN' }, 'APPROVED'],
    ['shadow', { mode: 'SHADOW' }, 'APPROVED'],
  ])('about a definition: %s', async (_mode, more, state) => {
    await setHook({ ...more, deadlineMs: reason === 'timeout' ? 100 : 5_000 });
    receiver.answer(answer);
    sends(reworded());
    const { echo } = await discover();
    expect(echo?.state).toBe(state);
    const verdict = { webhookId, decision: 'FAILURE', reason, digest: echo?.digests[0] };
    expect(echo?.verdicts.at(-1)).toMatchObject(verdict);
    if (state === 'APPROVED') return;
    expect(await problems(echo)).toEqual([
      `the webhook "definitions" gave no verdict on tool echo as ${echo?.digests[0]}: ${reason}`,
    ]);
  });
});

describe('a definition that is new or changed', () => {
  beforeEach(serve);

  test('is told of with its server, and approved by itself once the webhook says yes', async () => {
    sends(reworded());
    const { echo } = await discover();
    expect(echo?.state).toBe('APPROVED');
    expect(receiver.deliveries.map(({ event }) => event)).toEqual([
      expect.objectContaining({
        type: 'mcp.definition.inspect',
        contract: '1',
        data: expect.objectContaining({
          mode: 'enforce',
          digest: echo?.digests[0],
          event: 'tools/list',
          target: expect.objectContaining({ serverId, kind: 'tool', name: 'echo' }),
          message: expect.objectContaining({ name: 'echo' }),
        }),
      }),
    ]);
  });

  test('is out of service before a slow webhook has said anything, and back once it says yes', async () => {
    const { promise: isFree, resolve: free } = Promise.withResolvers<void>();
    const allow = saying({ decision: 'allow' });
    receiver.answer((delivery, response) => void isFree.then(() => allow(delivery, response)));
    sends(reworded(), toolNamed('fresh', `Number ${wordings++}.`));
    const discovering = discover();
    await waitFor('both are asked about', () => receiver.deliveries.length === 2 || undefined);
    const rows = await sql`select name, state from definitions where server_id = ${serverId} order by name`;
    expect(rows.map(({ name, state }) => [name, state] as unknown)).toEqual([
      ['echo', 'drifted'],
      ['fresh', 'pending'],
    ]);
    free();
    expect(await discovering).toMatchObject({ echo: { state: 'APPROVED' }, fresh: { state: 'APPROVED' } });
  });

  test('is quarantined where the webhook denies it, and approved by nobody as long as it does', async () => {
    receiver.answer(saying({ decision: 'deny', reasonCode: 'too.chatty' }));
    sends(toolNamed('echo'), toolNamed('fresh', `Number ${wordings++}.`));
    const { fresh } = await discover();
    expect(fresh).toMatchObject({ state: 'QUARANTINED', verdicts: [{ decision: 'DENY', reason: 'too.chatty' }] });
    expect(await problems(fresh)).toEqual([
      `the webhook "definitions" denied tool fresh as ${fresh?.digests[0]}: too.chatty`,
    ]);
    await setHook({ mode: 'SHADOW' });
    expect(await problems(fresh)).toEqual([]);
  });

  test('stays pending when its server is approved, where the webhook has not said yes', async () => {
    receiver.answer(saying({ decision: 'require_approval' }));
    sends(reworded());
    await register({});
    await succeed('approveServer', 'ServerInput', { id: serverId }, 'id');
    expect(await discover()).toMatchObject({ echo: { state: 'PENDING', approvedDigests: [] } });
  });

  test('is asked about once in one revision of the webhook, and again in the next', async () => {
    receiver.answer(saying({ decision: 'deny' }));
    sends(reworded());
    await discover();
    await discover();
    expect(receiver.deliveries).toHaveLength(1);
    await setHook({ deadlineMs: 4_000 });
    expect(await problems((await discover())['echo'])).toHaveLength(1);
    expect(receiver.deliveries).toHaveLength(2);
  });

  test('may not be changed by the webhook: what is approved is what the server sends', async () => {
    receiver.answer(saying({ decision: 'modify', patch: [{ op: 'replace', path: '/description', value: 'x' }] }));
    sends(reworded());
    expect(await discover()).toMatchObject({
      echo: {
        state: 'DRIFTED',
        verdicts: expect.arrayContaining([expect.objectContaining({ reason: 'patchForbidden' })]),
      },
    });
  });

  test('is not told by a dry run, nor where no policy that names the webhook is about it', async () => {
    sends(reworded());
    await succeed('discoverServer', 'ServerInput', { id: serverId, dryRun: true }, 'id');
    await succeed('updatePolicy', 'UpdatePolicyInput', { id: policyId, match: { tools: ['other'] } }, 'id');
    expect((await discover())['echo']?.state).toBe('APPROVED');
    expect(receiver.deliveries).toEqual([]);
    await succeed('updatePolicy', 'UpdatePolicyInput', { id: policyId, match: {} }, 'id');
  });

  test('is on record with what each webhook said of it', async () => {
    sends(reworded());
    await discover();
    const [event] = await sql`select after_json from audit_events
      where action = 'definition.askWebhooks' and object_id = ${serverId} order by time desc, id desc limit 1`;
    expect(JSON.parse(String(event?.['after_json']))).toMatchObject({
      count: 1,
      verdicts: [
        { webhookId, kind: 'tool', name: 'echo', decision: 'allow', mode: 'enforce', durationMs: expect.any(Number) },
      ],
    });
  });
});

describe('asking again', () => {
  beforeEach(serve);

  test('takes what is denied now out of service, and what is allowed now may be approved', async () => {
    const { echo } = await discover();
    expect(echo?.state).toBe('APPROVED');
    receiver.answer(saying({ decision: 'deny', reasonCode: 'changed.mind' }));
    const definitionIds = [echo?.id];
    expect(await askAgain({ definitionIds, dryRun: true })).toMatchObject([{ state: 'APPROVED' }]);
    expect(receiver.deliveries).toEqual([]);
    expect(await askAgain({ definitionIds })).toMatchObject([
      { state: 'QUARANTINED', verdicts: [{ decision: 'DENY', reason: 'changed.mind' }] },
    ]);
    receiver.answer(saying({ decision: 'allow' }));
    await askAgain({ definitionIds });
    expect(await problems(echo)).toEqual([]);
    expect(await discover()).toMatchObject({ echo: { state: 'APPROVED' } });
  });

  test('leaves in service what there is no verdict on', async () => {
    const { echo } = await discover();
    receiver.answer(() => undefined);
    await setHook({ deadlineMs: 50 });
    expect(await askAgain({ definitionIds: [echo?.id] })).toMatchObject([
      { state: 'APPROVED', verdicts: [{ decision: 'FAILURE', reason: 'timeout' }] },
    ]);
  });
});
