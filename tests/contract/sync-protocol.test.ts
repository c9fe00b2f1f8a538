import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import {
  type ControlPlaneMessage,
  controlPlaneMessageSchema,
  controlPlaneNodeId,
  helloSigningText,
  type NodeMessage,
  snapshotFormat,
} from '@sallyport/schema';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { waitFor } from '../kit/condition.ts';
import {
  administrator,
  change,
  seedRows,
  type SeededRows,
  startTestControlPlane,
  type TestControlPlane,
} from '../kit/fleet.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';

type Of<Type extends ControlPlaneMessage['type']> = Extract<ControlPlaneMessage, { type: Type }>;
type Hello = Extract<NodeMessage, { type: 'hello' }>;

let control: TestControlPlane;
let rows: SeededRows;
const open: RawNode[] = [];

beforeAll(async () => {
  control = await startTestControlPlane((await createMigratedDatabase()).url);
  rows = await seedRows(control.database);
  await waitFor('the first configuration is published', async () => {
    const status = await control.fleet.nodes.configStatus(administrator);
    return status.configRevision > 0 && !status.pending;
  });
});
afterEach(() => open.splice(0).forEach((node) => node.socket.terminate()));
afterAll(() => control.stop());

/** A node that says what a test tells it to. */
class RawNode {
  readonly socket: WebSocket;
  readonly received: ControlPlaneMessage[] = [];
  closeCode: number | undefined;
  answersPings = true;

  constructor(url: string) {
    this.socket = new WebSocket(url);
    this.socket.on('message', (data: Buffer) => {
      const message = controlPlaneMessageSchema.parse(JSON.parse(data.toString()));
      this.received.push(message);
      if (message.type === 'ping' && this.answersPings) this.send({ type: 'pong', nonce: message.nonce, load: idle });
    });
    this.socket.on('close', (code) => {
      this.closeCode = code;
    });
    this.socket.on('error', () => undefined);
    open.push(this);
  }

  send(message: NodeMessage): void {
    this.socket.send(JSON.stringify(message));
  }

  next<Type extends ControlPlaneMessage['type']>(type: Type, from = 0): Promise<Of<Type>> {
    return waitFor(type, () => this.received.slice(from).find((one): one is Of<Type> => one.type === type));
  }
}

const idle = {
  exchangesOpen: 0,
  requestsPerSecond: 0,
  eventLoopDelayP99Ms: 0,
  residentBytes: 0,
  spoolBytes: 0,
  spoolRecordsUnconfirmed: 0,
};

interface Key {
  readonly publicKey: string;
  readonly privateKey: KeyObject;
}
function mint(): Key {
  const pair = generateKeyPairSync('ed25519');
  return {
    publicKey: pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
    privateKey: pair.privateKey,
  };
}
function signed(key: Key, nonce: string, offered: string): string {
  return sign(null, Buffer.from(helloSigningText(nonce, offered)), key.privateKey).toString('base64');
}

function hello(auth: Hello['auth'], publicKey: string, changes: Partial<Hello> = {}): Hello {
  return {
    type: 'hello',
    auth,
    publicKey,
    name: 'raw',
    build: 'test',
    formats: [snapshotFormat],
    labels: {},
    peerUrl: null,
    peerCertificate: null,
    applied: null,
    spoolEpochs: [],
    ...changes,
  };
}

async function join(changes: Partial<Hello> = {}): Promise<{ node: RawNode; key: Key; welcome: Of<'welcome'> }> {
  const node = new RawNode(control.url);
  await node.next('challenge');
  const key = mint();
  node.send(hello({ kind: 'join', token: await control.joinToken() }, key.publicKey, changes));
  return { node, key, welcome: await node.next('welcome') };
}

async function refusal(message: (nonce: string) => NodeMessage): Promise<Of<'refused'>> {
  const node = new RawNode(control.url);
  const { nonce } = await node.next('challenge');
  node.send(message(nonce));
  const refused = await node.next('refused');
  await waitFor('it is closed', () => node.closeCode !== undefined);
  expect(node.received.some(({ type }) => type === 'welcome')).toBe(false);
  return refused;
}

/** Fetches what is on offer and acknowledges it. */
async function converge(node: RawNode): Promise<Of<'manifest'>> {
  const manifest = await node.next('manifest');
  const hashes = Object.values(manifest.whole.entries);
  node.send({ type: 'need', nonce: manifest.nonce, hashes });
  await waitFor('all documents', () => documentsOf(node).length === hashes.length);
  node.send({ type: 'ack', nonce: manifest.nonce, revision: manifest.whole.revision });
  return manifest;
}

function documentsOf(node: RawNode): { hash: string; body: string }[] {
  return node.received.flatMap((message) => (message.type === 'documents' ? message.documents : []));
}

function renameGrant(tool: string): Promise<void> {
  return change(control.database, (tx) => tx`update grants set tools = ${[tool]} where id = ${rows.grantId}`);
}

test('a join token that is unknown, expired, revoked, used up or for other labels is refused', async () => {
  const { publicKey } = mint();
  const refused = async (token: string, labels = {}): Promise<string> =>
    (await refusal(() => hello({ kind: 'join', token }, publicKey, { labels }))).code;
  expect(await refused('spjoin_unknown')).toBe('JOIN_TOKEN_REFUSED');

  const labelled = await control.joinToken({ labels: { site: 'north' } });
  expect(await refused(labelled)).toBe('JOIN_TOKEN_REFUSED');
  expect(await refused(labelled, { site: 'south' })).toBe('JOIN_TOKEN_REFUSED');

  const expired = await control.joinToken();
  await control.database.raw`update join_tokens set expires_at = now() where revoked_at is null`;
  expect(await refused(expired)).toBe('JOIN_TOKEN_REFUSED');

  const revoked = await control.joinToken();
  await control.database.raw`update join_tokens set revoked_at = now()`;
  expect(await refused(revoked)).toBe('JOIN_TOKEN_REFUSED');
});

test('of two nodes that join at once by a token for one, one is refused', async () => {
  const token = await control.joinToken({ usesMax: 1 });
  const pair = [new RawNode(control.url), new RawNode(control.url)];
  await Promise.all(pair.map((node) => node.next('challenge')));
  for (const node of pair) node.send(hello({ kind: 'join', token }, mint().publicKey));
  const answers = await Promise.all(
    pair.map((node) =>
      waitFor('an answer', () => node.received.find(({ type }) => type === 'welcome' || type === 'refused')),
    ),
  );
  expect(answers.map(({ type }) => type).sort()).toEqual(['refused', 'welcome']);
});

test('a node that reads no format of this control plane is told so', async () => {
  const token = await control.joinToken();
  const refused = await refusal(() =>
    hello({ kind: 'join', token }, mint().publicKey, {
      formats: [snapshotFormat + 1, snapshotFormat + 2],
    }),
  );
  expect(refused).toMatchObject({ code: 'FORMAT_NOT_SUPPORTED' });
  expect(refused.message).toContain(`writes snapshot format ${snapshotFormat}`);
});

test('anything but a hello, and anything that is no message, ends the connection', async () => {
  expect((await refusal(() => ({ type: 'leaving' }))).code).toBe('HELLO_NOT_VALID');
  const unknown = { type: 'hello', more: true } as unknown as NodeMessage;
  expect((await refusal(() => unknown)).code).toBe('MESSAGE_NOT_UNDERSTOOD');
  const large = { type: 'x', text: 'x'.repeat(70_000) } as unknown as NodeMessage;
  expect((await refusal(() => large)).code).toBe('HELLO_NOT_VALID');
});

test('a node returns by its key, and from its first answer on the key before is refused', async () => {
  const { node, key, welcome } = await join();
  node.socket.terminate();
  const second = mint();
  const auth = (nonce: string, by: Key, offered: Key, certificate = welcome.certificate): Hello =>
    hello(
      {
        kind: 'key',
        nodeId: welcome.nodeId,
        publicKey: by.publicKey,
        signature: signed(by, nonce, offered.publicKey),
        certificate,
      },
      offered.publicKey,
    );
  // It never answers: as if it crashed before it stored the new key. The old one must still be good.
  const crashed = new RawNode(control.url);
  crashed.answersPings = false;
  crashed.send(auth((await crashed.next('challenge')).nonce, key, second));
  await crashed.next('welcome');
  crashed.socket.terminate();
  const third = mint();
  const returned = new RawNode(control.url);
  returned.send(auth((await returned.next('challenge')).nonce, key, third));
  expect((await returned.next('welcome')).nodeId).toBe(welcome.nodeId);
  await converge(returned);
  await waitFor('the acknowledgement is stored', async () => {
    return (await control.fleet.nodes.get(administrator, welcome.nodeId)).appliedRevision !== null;
  });
  expect((await refusal((nonce) => auth(nonce, key, mint()))).code).toBe('KEY_REFUSED');
  expect((await refusal((nonce) => auth(nonce, second, mint()))).code).toBe('KEY_REFUSED');
  const stolen = mint();
  expect((await refusal((nonce) => auth(nonce, stolen, mint()))).code).toBe('KEY_REFUSED');
  expect((await refusal((nonce) => ({ ...auth(nonce, third, mint()), publicKey: stolen.publicKey }))).code).toBe(
    'KEY_REFUSED',
  );
});

test('a later connection of a node replaces the one before', async () => {
  const { node, key, welcome } = await join();
  const later = new RawNode(control.url);
  const { nonce } = await later.next('challenge');
  const auth = {
    kind: 'key',
    nodeId: welcome.nodeId,
    publicKey: key.publicKey,
    certificate: welcome.certificate,
  } as const;
  later.send(hello({ ...auth, signature: signed(key, nonce, key.publicKey) }, key.publicKey));
  await later.next('welcome');
  await waitFor('the first one is closed', () => node.closeCode === 1008);
  expect(later.closeCode).toBeUndefined();
});

test('only answers to what is on offer count', async () => {
  const { node, welcome } = await join();
  const manifest = await node.next('manifest');
  const { revision } = manifest.whole;
  node.send({ type: 'ack', nonce: 'stale', revision });
  node.send({ type: 'ack', nonce: manifest.nonce, revision: revision + 1 });
  node.send({
    type: 'nack',
    nonce: 'stale',
    appliedRevision: null,
    problems: [{ document: 'x', path: '', message: 'x' }],
  });
  node.send({ type: 'need', nonce: 'stale', hashes: Object.values(manifest.whole.entries) });
  node.send({ type: 'alarm', code: 'MARK', message: 'everything before this was read' });
  await waitFor('everything was read', async () => (await control.fleet.nodes.alarmsOf(welcome.nodeId))?.length === 1);
  const row = await control.fleet.nodes.get(administrator, welcome.nodeId);
  expect(row).toMatchObject({ appliedRevision: null, problems: [] });
  expect(documentsOf(node)).toEqual([]);
  await converge(node);
});

test('what is published while a configuration is on offer comes after the answer, as one change', async () => {
  const { node } = await join();
  const first = await node.next('manifest');
  await renameGrant('one');
  await waitFor('published', async () => !(await control.fleet.nodes.configStatus(administrator)).pending);
  await renameGrant('two');
  await waitFor('published', async () => !(await control.fleet.nodes.configStatus(administrator)).pending);
  expect(node.received.filter(({ type }) => type === 'manifest' || type === 'manifestDelta')).toHaveLength(1);
  node.send({ type: 'ack', nonce: first.nonce, revision: first.whole.revision });
  const { nonce, delta } = await node.next('manifestDelta');
  expect(delta).toMatchObject({ base: first.whole.revision, revision: first.whole.revision + 2, removed: [] });
  expect(Object.keys(delta.changed)).toEqual([`grants/${rows.serverId}`]);
  // A node that is not at the base asks for the whole, and gets it under the same nonce.
  const from = node.received.length;
  node.send({ type: 'needWhole', nonce });
  const whole = await node.next('manifest', from);
  expect(whole).toMatchObject({ nonce, whole: { revision: delta.revision, hash: delta.hash } });
  node.send({ type: 'ack', nonce, revision: delta.revision });
});

test('a refused configuration is not offered again until another is published', async () => {
  const { node, welcome } = await join();
  const { nonce } = await node.next('manifest');
  const problems = [{ document: 'server/x', path: 'url', message: 'no \u0000 good' }];
  node.send({ type: 'nack', nonce, appliedRevision: null, problems });
  await waitFor('the refusal is shown', async () => {
    return (await control.fleet.nodes.get(administrator, welcome.nodeId)).problems.length === 1;
  });
  const from = node.received.length;
  control.fleet.publisher.reconcile();
  await node.next('ping', from);
  expect(node.received.slice(from).some(({ type }) => type === 'manifest')).toBe(false);
  await renameGrant('mended');
  await node.next('manifest', from);
});

test('a node that stops answering is out of contact and never counted as live', async () => {
  const { node, welcome } = await join();
  await converge(node);
  const status = async (): Promise<string> =>
    control.fleet.nodes.statusOf(administrator, await control.fleet.nodes.get(administrator, welcome.nodeId));
  await waitFor('it is live', async () => (await status()) === 'live');
  node.answersPings = false;
  await waitFor('it is not', async () => (await status()) === 'unconverged', { deadlineMs: 9_000 });
  await waitFor('its socket is cut', () => node.closeCode !== undefined);
  expect(await status()).toBe('unconverged');
});

test('a key is renewed by the one in force, and by no other', async () => {
  const { node, key, welcome } = await join();
  const { nonce } = await node.next('challenge');
  const fresh = mint();
  node.send({ type: 'renew', publicKey: fresh.publicKey, signature: signed(key, nonce, fresh.publicKey) });
  const renewed = await node.next('renewed');
  expect(renewed.publicKey).toBe(fresh.publicKey);
  node.socket.terminate();
  const again = new RawNode(control.url);
  const challenge = await again.next('challenge');
  const auth = {
    kind: 'key',
    nodeId: welcome.nodeId,
    publicKey: fresh.publicKey,
    certificate: renewed.certificate,
  } as const;
  again.send(hello({ ...auth, signature: signed(fresh, challenge.nonce, fresh.publicKey) }, fresh.publicKey));
  await again.next('welcome');
  const other = mint();
  again.send({ type: 'renew', publicKey: other.publicKey, signature: signed(other, challenge.nonce, other.publicKey) });
  expect((await again.next('refused')).code).toBe('KEY_REFUSED');
});

test('only a node that joined after another was last heard may be its successor', async () => {
  const elder = await join();
  const younger = await join();
  const { nodeId: elderId } = elder.welcome;
  const { nodeId: youngerId } = younger.welcome;
  const { reports } = control.fleet;
  const { raw } = control.database;
  await raw`update nodes set created_at = created_at - interval '1 minute'`;
  expect(await reports.maySucceed(youngerId, elderId)).toBe(false);
  expect(await reports.maySucceed(elderId, youngerId)).toBe(false);
  expect(await reports.maySucceed(youngerId, controlPlaneNodeId)).toBe(false);
  await raw`update nodes set created_at = now() + interval '1 hour' where id = ${youngerId}`;
  expect(await reports.maySucceed(youngerId, elderId)).toBe(true);
  expect(await reports.maySucceed(elderId, youngerId)).toBe(false);
});

test('an upstream is discovered through a node, and its problem comes back as a code', async () => {
  const { node } = await join();
  const found = control.fleet.syncServer.discoverThroughNode({ url: 'http://10.0.0.1/mcp', credential: null });
  const asked = await node.next('discover');
  expect(asked.url).toBe('http://10.0.0.1/mcp');
  const result = {
    protocolRevisions: ['2025-11-25'],
    transport: 'streamableHttp' as const,
    serverInfo: null,
    capabilities: {},
    instructions: null,
    definitions: [],
    notes: [],
  };
  node.send({ type: 'discovered', requestId: asked.requestId, outcome: { ok: true, result } });
  expect(await found).toEqual(result);
  const failed = control.fleet.syncServer.discoverThroughNode({ url: 'http://10.0.0.2/mcp', credential: null });
  const again = await node.next('discover', node.received.indexOf(asked) + 1);
  node.send({
    type: 'discovered',
    requestId: again.requestId,
    outcome: { ok: false, problem: 'UPSTREAM_UNREACHABLE' },
  });
  await expect(failed).rejects.toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
});

test('health is passed on under the name of the node that saw it', async () => {
  const { node, welcome } = await join();
  const observation = {
    serverId: rows.serverId,
    state: 'healthy',
    observedAt: 1,
    latencyMs: 2,
    problem: null,
  } as const;
  node.send({ type: 'health', observations: [observation] });
  const arrived = await waitFor('it arrived', () => control.healthReports.at(0));
  expect(arrived).toEqual({ nodeId: welcome.nodeId, serverId: rows.serverId });
});

test('a doubt about what a server speaks is passed on', async () => {
  const { node } = await join();
  node.send({ type: 'doubt', serverId: rows.serverId });
  expect(await waitFor('it arrived', () => control.doubts.at(-1))).toBe(rows.serverId);
});

test('a node that floods the socket is cut off', async () => {
  const { node } = await join();
  for (let index = 0; index < 1_000; index += 1) node.send({ type: 'needWhole', nonce: 'x' });
  await waitFor('it is closed', () => node.closeCode === 1008);
  expect(node.received.some((message) => message.type === 'refused' && message.code === 'TOO_MANY_MESSAGES')).toBe(
    true,
  );
});
