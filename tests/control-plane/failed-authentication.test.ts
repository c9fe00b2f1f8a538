import { snapshotFormat } from '@sallyport/schema';
import { createClient } from 'graphql-ws';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, type TestControlPlane, testBootstrapToken } from '../kit/control-plane.ts';

let plane: TestControlPlane;
beforeAll(async () => {
  plane = await startTestControlPlane({ environment: { SALLYPORT_TRUSTED_PROXIES: '127.0.0.0/8' } });
});
afterAll(() => plane.stop());

const wrongKey = 'sp_a_key_that_does_not_exist_anywhere';

interface Asked {
  readonly from: string;
  readonly key?: string;
  readonly query?: string;
}

/** Asks through the trusted proxy that the test is, for somebody at an address. */
function ask({ from, key, query = '{ me { kind } }' }: Asked): Promise<Response> {
  return fetch(plane.graphqlUrl, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'x-forwarded-for': from,
      ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
    },
    body: JSON.stringify({ query }),
  });
}

function limited(what: Asked): Promise<Response> {
  return waitFor(`${what.from} is told to wait`, async () => {
    const response = await ask(what);
    if (response.status === 429) return response;
    await response.text();
    return undefined;
  });
}

test('keys that do not open are bounded by network; one that opened lately goes on, and other networks too', async () => {
  const from = '203.0.113.1';
  expect((await ask({ from, key: plane.ownerKey })).status).toBe(200);
  const refusal = await limited({ from, key: wrongKey });
  expect(refusal.headers.get('retry-after')).toBe('1');
  expect(await refusal.json()).toMatchObject({ errors: [{ extensions: { code: 'RATE_LIMITED', retryable: true } }] });
  expect((await ask({ from, key: plane.ownerKey })).status).toBe(200);
  expect((await ask({ from: '203.0.113.2', key: wrongKey })).status).toBe(401);
});

test('many at once are not looked at all', async () => {
  const answers = await Promise.all(Array.from({ length: 150 }, () => ask({ from: '203.0.113.3', key: wrongKey })));
  const statuses = Map.groupBy(answers, ({ status }) => status);
  expect([...statuses.keys()].sort((a, b) => a - b)).toEqual([401, 429]);
  expect(statuses.get(429)?.length).toBeGreaterThan(60);
});

test('a bootstrap token cannot be guessed at without end', async () => {
  const query = 'mutation { bootstrap(input: { token: "not the token, but as long as it" }) { secret } }';
  expect((await limited({ from: '203.0.113.4', query })).status).toBe(429);
  const right = query.replace('not the token, but as long as it', testBootstrapToken);
  expect((await ask({ from: '203.0.113.4', query: right })).status).toBe(429);
});

test('subscriptions and exports count as well', async () => {
  const from = '203.0.113.5';
  const headers = { 'x-forwarded-for': from };
  const url = plane.graphqlUrl.replace(/^http/, 'ws');
  class FromThere extends WebSocket {
    constructor(address: string, protocols: string[]) {
      super(address, protocols, { headers });
    }
  }
  await waitFor('the network is told to wait', async () => {
    const client = createClient({
      url,
      webSocketImpl: FromThere,
      connectionParams: { authorization: `Bearer ${wrongKey}` },
      retryAttempts: 0,
    });
    const subscription = client.iterate({ query: 'subscription { nodesChanged { configRevision } }' });
    await expect(subscription.next()).rejects.toMatchObject({ code: 4403 });
    const exported = await fetch(`${new URL(plane.graphqlUrl).origin}/audit/export`, {
      headers: { ...headers, authorization: `Bearer ${wrongKey}` },
    });
    await exported.text();
    return exported.status === 429;
  });
});

test('join tokens cannot be guessed at without end', async () => {
  const helloWith = (token: string) => ({
    type: 'hello',
    auth: { kind: 'join', token },
    publicKey: 'MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=',
    name: 'stranger',
    build: 'test',
    formats: [snapshotFormat],
    labels: {},
    peerUrl: null,
    applied: null,
    spoolEpochs: [],
  });
  const refusal = (from: string, token: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(plane.syncUrl, { headers: { 'x-forwarded-for': from } });
      socket.once('error', reject);
      socket.on('message', (data: Buffer) => {
        const message = JSON.parse(data.toString()) as { type: string; code?: string };
        if (message.type === 'challenge') socket.send(JSON.stringify(helloWith(token)));
        else resolve(message.code ?? message.type);
        if (message.type !== 'challenge') socket.close();
      });
    });
  const wrong = 'spj_a_join_token_that_nobody_has_given_out';
  await waitFor('the network is told to wait', async () => {
    const codes = await Promise.all(Array.from({ length: 10 }, () => refusal('203.0.113.6', wrong)));
    expect(codes.every((code) => ['JOIN_TOKEN_REFUSED', 'RATE_LIMITED'].includes(code))).toBe(true);
    return codes.includes('RATE_LIMITED');
  });
  expect(await refusal('203.0.113.7', wrong)).toBe('JOIN_TOKEN_REFUSED');
});

test('behind a proxy that is not named nobody is refused for the failures of others', async () => {
  const unnamed = await startTestControlPlane({ environment: { SALLYPORT_TLS_TERMINATED_BY_PROXY: 'true' } });
  const answers = await Promise.all(Array.from({ length: 100 }, () => unnamed.ask('{ me { kind } }', {}, wrongKey)));
  expect(answers.every(({ status }) => status === 401)).toBe(true);
  await unnamed.stop();
});
