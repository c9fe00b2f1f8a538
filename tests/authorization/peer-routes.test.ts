import { request } from 'node:https';
import { createPeerIdentity, KnownPeers, PeerServer } from '@sallyport/data-plane';
import { AppError, type HttpRoute, peerRoutes } from '@sallyport/schema';
import { createLog } from '@sallyport/schema/platform';
import { afterAll, beforeAll, expect, test } from 'vitest';

const log = createLog({ name: 'peers', level: 'silent' });
const known = new KnownPeers(log);
const own = createPeerIdentity('own');
const fleet = createPeerIdentity('fleet');
const foreign = createPeerIdentity('foreign');
const former = createPeerIdentity('former');
const server = new PeerServer({ identity: own, peers: known, log });
let port: number;
/** What handlers were reached. */
const reached: string[] = [];

/** Names the nodes that are live. */
function name(...live: readonly (typeof fleet)[]): void {
  known.replace(
    live.map(({ certificate }, index) => ({ nodeId: `node-${index}`, url: 'https://127.0.0.1:1', certificate })),
  );
}

beforeAll(async () => {
  name(fleet, former);
  port = await server.listen('127.0.0.1', 0);
  name(fleet);
  const refuse = (what: string): never => {
    reached.push(what);
    throw new AppError('CALL_LOST');
  };
  server.serve({
    notice: () => void reached.push('notice'),
    session: () => void reached.push('session'),
    response: () => reached.push('response') < 0,
    resume: () => Promise.resolve().then(() => refuse('resume')),
    exchange: () => Promise.resolve().then(() => refuse('exchange')),
  });
});
afterAll(() => server.close());

const ids = { principalId: 'p', serverId: 's' };
const bodies: Readonly<Record<keyof typeof peerRoutes, object>> = {
  notice: { kind: 'cancelled', sessionId: 'x', requestId: 1 },
  session: { sessionId: 'x', principalId: 'p' },
  response: { ...ids, sessionId: 'x', questionId: 'q', response: {} },
  resume: { ...ids, callId: 'c', digest: 'd', requestId: 1, responses: {}, timeoutMs: 1_000 },
  exchange: { method: 'POST', path: '/mcp/s', query: '', remoteAddress: null, headers: [], body: '' },
};
const credentials = {
  'no certificate': {},
  'a foreign certificate': { cert: foreign.certificatePem, key: foreign.privateKeyPem },
  'the certificate of a node that is gone': { cert: former.certificatePem, key: former.privateKeyPem },
  'the certificate of the fleet with another key': { cert: fleet.certificatePem, key: foreign.privateKeyPem },
  'no certificate, but a key of the API': { headers: { authorization: `Bearer sp_${'x'.repeat(43)}` } },
  'a certificate of the fleet': { cert: fleet.certificatePem, key: fleet.privateKeyPem },
} as const;

interface Credential {
  readonly cert?: string;
  readonly key?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The status and code of an answer; undefined where there is no connection. */
function ask(method: string, path: string, body: object, { headers: more, ...certificate }: Credential) {
  return new Promise<{ status: number | undefined; code: unknown } | undefined>((resolve) => {
    try {
      const headers = { 'content-type': 'application/json', ...more };
      const options = { host: '127.0.0.1', port, method, path, rejectUnauthorized: false, agent: false };
      const outgoing = request({ ...options, ...certificate, headers }, (incoming) => {
        let text = '';
        incoming.on('data', (chunk: Buffer) => (text += chunk.toString()));
        incoming.on('end', () => {
          const { code } = (text === '' ? {} : JSON.parse(text)) as { code?: unknown };
          resolve({ status: incoming.statusCode, code });
        });
      });
      outgoing.on('error', () => resolve(undefined));
      outgoing.end(JSON.stringify(body));
    } catch {
      // A certificate that does not fit the key: there is not even a hello.
      resolve(undefined);
    }
  });
}

const rows = Object.entries(peerRoutes) as [keyof typeof peerRoutes, HttpRoute][];

test.each(rows)('%s answers a live node of the fleet, and nobody else has a connection', async (route, { path }) => {
  for (const [who, credential] of Object.entries(credentials)) {
    reached.length = 0;
    const answer = await ask('POST', path, bodies[route], credential);
    const isFleet = who === 'a certificate of the fleet';
    expect([who, answer !== undefined, reached]).toEqual([who, isFleet, isFleet ? [route] : []]);
  }
});

test('no route takes a method that its row does not name, and what is in no row is not served', async () => {
  const credential = credentials['a certificate of the fleet'];
  reached.length = 0;
  for (const [route, { path }] of rows) {
    for (const method of ['GET', 'PUT', 'DELETE']) {
      expect((await ask(method, path, bodies[route], credential))?.code).toBe('METHOD_NOT_ALLOWED');
    }
    expect((await ask('POST', `${path}/x`, bodies[route], credential))?.code).toBe('NOT_FOUND');
  }
  for (const path of ['/', '/peer/v1', '/mcp/s', '/metrics']) {
    expect((await ask('POST', path, {}, credential))?.code).toBe('NOT_FOUND');
  }
  expect(reached).toEqual([]);
});

test('a node that is named no more is asked nothing over a connection that it has', async () => {
  name();
  const answer = await ask('POST', peerRoutes.notice.path, bodies.notice, credentials['a certificate of the fleet']);
  expect(answer).toBeUndefined();
});
