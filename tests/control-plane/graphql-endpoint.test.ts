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

  test('one request changes one thing, however it is written', async () => {
    const create = (name: string) => `createGroup(input: { name: "${name}" }) { id }`;
    const refused = [
      `mutation { a: ${create('one')} b: ${create('two')} }`,
      `mutation { a: ${create('one')} ...more } fragment more on Mutation { b: ${create('two')} }`,
      `mutation { a: ${create('one')} ... on Mutation { b: ${create('two')} } }`,
    ];
    for (const query of refused) {
      expect((await plane.ask(query)).errors[0]?.extensions.code).toBe('QUERY_TOO_COMPLEX');
    }
    const batch = refused.map((query) => ({ query }));
    const headers = { ...json, authorization: `Bearer ${plane.ownerKey}` };
    expect((await post(JSON.stringify(batch), headers)).status).toBe(400);
    const { data } = await plane.ask('{ groups(first: 10) { edges { node { name } } } }');
    expect(data.groups.edges).toEqual([]);
  });

  test.each([
    [
      'deeper than the limit',
      `{ server(id: "x") { ${'definitions { edges { node { server { '.repeat(4)} id ${'} '.repeat(16)} } }`,
    ],
    [
      'dearer than the limit',
      '{ servers(first: 200) { edges { node { definitions(first: 200) { edges { node { id name kind state digests: id } } } } } } }',
    ],
    ['of more objects than a page holds', '{ groups(first: 201) { edges { cursor } } }'],
    ['of less than one object', '{ groups(first: 0) { edges { cursor } } }'],
    ['after a cursor that is none', '{ groups(after: "x") { edges { cursor } } }'],
  ])('a query %s is refused with what is wrong', async (_name, query) => {
    const [failure] = (await plane.ask(query)).errors;
    expect(failure?.extensions.code).toMatch(/QUERY_TOO_COMPLEX|INVALID_INPUT/);
    expect(failure?.extensions.violations?.[0]?.message).toMatch(/\S/);
  });

  test('the schema is told to those who hold a role, and to nobody else', async () => {
    const user = await plane.ask('mutation { createUser(input: { name: "without a role" }) { id } }');
    const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
    const issued = await plane.ask('mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }', {
      input: { principalId: user.data.createUser.id, name: 'k', scopes: ['API'], expiresAt },
    });
    const introspection = '{ __schema { types { name } } }';
    const hidden = '{ me { id } ...f } fragment f on Query { __type(name: "Server") { name } }';
    expect((await plane.ask(introspection)).errors).toEqual([]);
    for (const [key, code] of [
      [null, 'UNAUTHENTICATED'],
      [issued.data.createApiKey.secret, 'FORBIDDEN'],
    ]) {
      expect((await plane.ask(introspection, {}, key)).errors[0]?.extensions.code).toBe(code);
      expect((await plane.ask(hidden, {}, key)).errors[0]?.extensions.code).toBe(code);
      expect((await plane.ask('{ serverz { id } }', {}, key)).errors[0]?.message).toBe('The query is not valid.');
      expect((await plane.ask('{ __typename }', {}, key)).errors).toEqual([]);
    }
    expect((await plane.ask('{ serverz { id } }')).errors[0]?.message).toContain('servers');
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
