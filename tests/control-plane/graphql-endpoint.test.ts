import { request } from 'node:http';
import { createClient } from 'graphql-ws';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;

beforeAll(async () => {
  plane = await startTestControlPlane();
});
afterAll(() => plane.stop());

const post = (body: string, headers: Record<string, string>): Promise<Response> =>
  fetch(plane.graphqlUrl, { method: 'POST', body, headers });
const json = { 'content-type': 'application/json' };
const codeOf = async (response: Response): Promise<string> => {
  const body = (await response.json()) as { errors: { extensions: { code: string } }[] };
  return body.errors[0]?.extensions.code ?? '';
};

describe('over HTTP', () => {
  test('a form of a web page cannot send a query', async () => {
    for (const type of ['application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data; boundary=x']) {
      expect(await codeOf(await post('{"query":"{ me { id } }"}', { 'content-type': type }))).toBe(
        'UNSUPPORTED_MEDIA_TYPE',
      );
    }
    const get = await fetch(`${plane.graphqlUrl}?query={me{id}}`, {
      headers: { authorization: `Bearer ${plane.ownerKey}` },
    });
    expect(await codeOf(get)).toBe('METHOD_NOT_ALLOWED');
  });

  test('a bad key is 401 before anything is read, and no key reaches nothing but public fields', async () => {
    const bad = await post('{}', { ...json, authorization: 'Bearer sp_nothing' });
    expect([bad.status, await codeOf(bad)]).toEqual([401, 'UNAUTHENTICATED']);
    const none = await plane.ask('{ groups { edges { cursor } } }', {}, null);
    expect(none.errors[0]?.extensions.code).toBe('UNAUTHENTICATED');
  });

  test('without a key only a small body is read', async () => {
    const body = JSON.stringify({ query: `{ __typename } #${'x'.repeat(64 * 1024)}` });
    expect((await post(body, json)).status).toBe(413);
    expect((await post(body, { ...json, authorization: `Bearer ${plane.ownerKey}` })).status).toBe(200);
  });

  test('what is no JSON, no query or too large is said to be so', async () => {
    const headers = { ...json, authorization: `Bearer ${plane.ownerKey}` };
    expect(await codeOf(await post('{', headers))).toBe('PARSE_ERROR');
    expect(await codeOf(await post('{"query":"{ nonsense"}', headers))).toBe('INVALID_INPUT');
    expect(await codeOf(await post('{"query":"{ nonsense }"}', headers))).toBe('INVALID_INPUT');
    expect(await codeOf(await post('[{"query":"{ me { id } }"}]', headers))).toBe('INVALID_INPUT');
    const variable = 'query ($at: DateTimeISO) { auditEvents(from: $at) { edges { cursor } } }';
    const wrong = await plane.ask(variable, { at: 'yesterday' });
    expect(wrong.errors[0]?.extensions.code).toBe('INVALID_INPUT');
    const large = JSON.stringify({ query: `{ me { id } } #${'x'.repeat(2 * 1024 * 1024)}` });
    const status = await new Promise<number>((resolve, reject) => {
      const sending = request(plane.graphqlUrl, { method: 'POST', headers }, (response) => {
        resolve(response.statusCode ?? 0);
        response.resume();
      });
      sending.on('error', reject);
      sending.end(large);
    });
    expect(status).toBe(413);
  });

  test('a query over the limits is refused before it runs', async () => {
    const aliases = Array.from({ length: 40 }, (_, index) => `a${index}: me { id }`).join(' ');
    const answer = await plane.ask(`{ ${aliases} }`);
    expect([answer.status, answer.errors[0]?.extensions.code]).toEqual([400, 'QUERY_TOO_COMPLEX']);
  });

  test('another path is not found', async () => {
    expect((await fetch(new URL('/elsewhere', plane.graphqlUrl))).status).toBe(404);
  });
});

describe('over WebSocket', () => {
  const url = (): string => plane.graphqlUrl.replace('http', 'ws');
  const client = (key: string | undefined, onClosed?: (code: number) => void) =>
    createClient({
      url: url(),
      webSocketImpl: WebSocket,
      retryAttempts: 0,
      lazy: true,
      connectionParams: key === undefined ? {} : { authorization: `Bearer ${key}` },
      on: { closed: (event) => onClosed?.((event as { code: number }).code) },
    });
  /** The first thing the subscription brings: a result, or the error it ends with. */
  const first = (key: string | undefined, query: string, act?: () => Promise<unknown>): Promise<unknown> =>
    new Promise((resolve) => {
      const subscriber = client(key);
      const settle = (value: unknown): void => {
        resolve(value);
        void subscriber.dispose();
      };
      subscriber.on('connected', () => void act?.());
      subscriber.subscribe({ query }, { next: settle, error: settle, complete: () => settle('complete') });
    });

  test('without a key no socket opens', async () => {
    expect(await first(undefined, 'subscription { configStatusChanged { revision } }')).toMatchObject({ code: 4403 });
    expect(await first('sp_wrong', 'subscription { configStatusChanged { revision } }')).toMatchObject({ code: 4403 });
  });

  test('queries and mutations are not run over it', async () => {
    const answer = await first(plane.ownerKey, 'mutation { createGroup(input: { name: "x" }) { id } }');
    expect(answer).toMatchObject([{ extensions: { code: 'INVALID_INPUT' } }]);
  });

  test('a subscription needs its permission, from its start', async () => {
    const user = await plane.ask('mutation { createUser(input: { name: "nobody" }) { id } }');
    const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
    const key = await plane.ask(`mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }`, {
      input: { principalId: user.data.createUser.id, name: 'k', scopes: ['API'], expiresAt },
    });
    const answer = await first(key.data.createApiKey.secret, 'subscription { auditEventAdded { id } }');
    expect(answer).toMatchObject({ errors: [{ extensions: { code: 'FORBIDDEN' } }] });
  });

  test('the socket of a revoked key is closed', async () => {
    const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
    const issued = await plane.ask(
      `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret apiKey { id } } }`,
      { input: { principalId: plane.ownerId, name: 'k', scopes: ['API'], expiresAt } },
    );
    const { secret, apiKey } = issued.data.createApiKey;
    const closed = new Promise<number>((resolve) => {
      const subscriber = client(secret, resolve);
      subscriber.on('connected', () => {
        void plane.ask('mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { id } }', { id: apiKey.id });
      });
      subscriber.subscribe(
        { query: 'subscription { configStatusChanged { __typename } }' },
        { next: () => {}, error: () => {}, complete: () => {} },
      );
    });
    expect(await closed).toBe(4403);
  });
});

test('the operations port tells that the process is ready', async () => {
  expect((await fetch(new URL('/readyz', plane.controlPlane.operationsUrl))).status).toBe(200);
});
