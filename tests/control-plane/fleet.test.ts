import { type Client, createClient } from 'graphql-ws';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { removeNodeDirectories, startTestNode, type TestNode } from '../kit/fleet.ts';

let control: TestControlPlane;
let nodes: TestNode[] = [];

beforeAll(async () => {
  control = await startTestControlPlane();
});
afterEach(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  nodes = [];
});
afterAll(async () => {
  await control.stop();
  removeNodeDirectories();
});

const tomorrow = (): string => new Date(performance.timeOrigin + performance.now() + 86_400_000).toISOString();

const createToken = `mutation ($input: CreateJoinTokenInput!) {
  createJoinToken(input: $input) { secret joinToken { id hint uses usesMax labels revision revokedAt } }
}`;

async function joinToken(input: Record<string, unknown> = {}): Promise<{ secret: string; joinToken: { id: string } }> {
  const answer = await control.ask(createToken, { input: { name: 'nodes', expiresAt: tomorrow(), ...input } });
  expect(answer.errors).toEqual([]);
  return answer.data.createJoinToken;
}

async function startNode(token: string): Promise<TestNode> {
  const node = startTestNode(control.syncUrl, { joinToken: token, name: 'edge', labels: { site: 'north' } });
  nodes.push(node);
  await waitFor('it has a configuration', () => node.store.current !== undefined);
  return node;
}

test('a join token is shown once, counts its uses, and can be revoked', async () => {
  const input = { usesMax: 5, labels: { site: 'north' }, idempotencyKey: 'once', expiresAt: tomorrow() };
  const issued = await joinToken(input);
  expect(issued.secret).toMatch(/^spjoin_/);
  expect(await joinToken(input)).toMatchObject({ secret: null, joinToken: { id: issued.joinToken.id } });
  await startNode(issued.secret);
  const list = await control.ask('{ joinTokens { edges { node { id uses hint } } } }');
  const shown = list.data.joinTokens.edges.find(
    (edge: { node: { id: string } }) => edge.node.id === issued.joinToken.id,
  );
  expect(shown.node.uses).toBe(1);
  expect(JSON.stringify(list.data)).not.toContain(issued.secret);
  const revoke = 'mutation ($input: RevokeJoinTokenInput!) { revokeJoinToken(input: $input) { revokedAt } }';
  const conflict = await control.ask(revoke, { input: { id: issued.joinToken.id, expectedRevision: 9 } });
  expect(conflict.errors[0]?.extensions.code).toBe('CONFLICT');
  const revoked = await control.ask(revoke, { input: { id: issued.joinToken.id, expectedRevision: 1 } });
  expect(revoked.data.revokeJoinToken.revokedAt).not.toBeNull();
});

test('what is wrong with a join token is said all at once, and a dry run makes none', async () => {
  const input = { name: '', usesMax: 0, labels: { a: 1 }, expiresAt: '2020-01-01T00:00:00Z' };
  const answer = await control.ask(createToken, { input });
  expect(answer.errors[0]?.extensions.violations?.map(({ path }) => path)).toEqual([
    'input.name',
    'input.expiresAt',
    'input.usesMax',
    'input.labels.a',
  ]);
  const before = await control.ask('{ joinTokens { edges { node { id } } } }');
  const dry = await control.ask(createToken, { input: { name: 'dry', expiresAt: tomorrow(), dryRun: true } });
  expect(dry.data.createJoinToken.secret).toBeNull();
  expect((await control.ask('{ joinTokens { edges { node { id } } } }')).data).toEqual(before.data);
});

test('the API shows a node with its state, and how many run what is published', async () => {
  const node = await startNode((await joinToken()).secret);
  const id = await node.client.joined();
  const shown = await waitFor('it is live', async () => {
    const answer = await control.ask(
      `query ($id: ID!) { node(id: $id) {
        id name build labels status appliedRevision appliedHistoryId problems { message } alarms { code } lastContactAt
      } }`,
      { id },
    );
    return answer.data.node.status === 'LIVE' && answer.data.node;
  });
  expect(shown).toMatchObject({ id, name: 'edge', build: 'test', labels: { site: 'north' }, problems: [], alarms: [] });
  const status = await control.ask(
    '{ configStatus { configRevision pending summary nodesLive problems { message } } }',
  );
  const { configRevision, summary } = status.data.configStatus;
  expect(shown.appliedRevision).toBe(configRevision);
  expect(summary).toContain(`revision ${configRevision} is live on `);
  const convergence = await control.ask(
    `{ revocationStatus(configRevision: ${configRevision}) { nodes { node { id } applied inContact } } }`,
  );
  expect(convergence.data.revocationStatus.nodes).toContainEqual({ node: { id }, applied: true, inContact: true });
});

test('a subscription tells of a change until it is live', async () => {
  const node = await startNode((await joinToken()).secret);
  const client: Client = createClient({
    url: control.graphqlUrl.replace(/^http/, 'ws'),
    webSocketImpl: WebSocket,
    connectionParams: { authorization: `Bearer ${control.ownerKey}` },
    retryAttempts: 0,
  });
  const told: { configRevision: number; nodesLive: number }[] = [];
  client.subscribe<{ configStatusChanged: { configRevision: number; nodesLive: number } }>(
    { query: 'subscription { configStatusChanged { configRevision nodesLive } }' },
    {
      next: ({ data }) => data && told.push(data.configStatusChanged),
      error: () => undefined,
      complete: () => undefined,
    },
  );
  const before = node.store.current?.revision ?? 0;
  await control.ask(`mutation { rotateSealingKey(input: {}) { id use } }`);
  const heard = await waitFor('the subscription says that it is live', () =>
    told.find(({ configRevision, nodesLive }) => configRevision > before && nodesLive > 0),
  );
  expect(heard.configRevision).toBeGreaterThan(before);
  await client.dispose();
});

test('a removed node is gone from the list', async () => {
  const node = await startNode((await joinToken()).secret);
  const id = await node.client.joined();
  const answer = await control.ask('mutation ($id: ID!) { removeNode(input: { id: $id }) { status } }', { id });
  expect(answer.data.removeNode.status).toBe('GONE');
  const list = await control.ask('{ nodes { edges { node { id } } } }');
  expect(list.data.nodes.edges.some((edge: { node: { id: string } }) => edge.node.id === id)).toBe(false);
  const again = await control.ask('mutation ($id: ID!) { removeNode(input: { id: $id }) { status } }', { id });
  expect(again.errors[0]?.extensions.code).toBe('NOT_FOUND');
});
