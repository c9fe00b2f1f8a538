import { request } from 'node:http';
import { fieldPermissions } from '@sallyport/control-plane';
import { ERRORS } from '@sallyport/schema';
import { isRequiredArgument } from 'graphql';
import { createClient } from 'graphql-ws';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { apiSchema, fieldsOf, isConnection } from '../kit/whole-schema.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl, { onnotice: () => undefined });
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const post = (body: string, headers: Record<string, string>): Promise<Response> =>
  fetch(plane.graphqlUrl, { method: 'POST', body, headers });
const json = { 'content-type': 'application/json' };
const codeOf = async (response: Response): Promise<string> => {
  const body = (await response.json()) as { errors: { extensions: { code: string } }[] };
  return body.errors[0]?.extensions.code ?? '';
};

/** The key comes before the role: an owner makes none that reads payloads. */
async function keyOfAuditor(): Promise<string> {
  const made = async (mutation: string, member: string): Promise<string> => {
    const { data } = await plane.ask(`mutation { made: ${mutation} { ${member} } }`);
    return (data as { made: Record<string, string> }).made[member] ?? '';
  };
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const id = await made(`createServiceAccount(input: { name: "auditor", expiresAt: "${expiresAt}" })`, 'id');
  const issued = `principalId: "${id}", name: "k", scopes: [API], expiresAt: "${expiresAt}"`;
  const secret = await made(`createApiKey(input: { ${issued} })`, 'secret');
  await made(`assignRole(input: { principalId: "${id}", role: AUDITOR })`, 'id');
  return secret;
}

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

  test('what does not fit the schema is told by its place and reason, and never repeated', async () => {
    const mutation = 'mutation ($input: SetServerCredentialInput!) { setServerCredential(input: $input) { mode } }';
    const headers = (header: object) => ({ input: { serverId: 'x', staticHeaders: { headers: [header] } } });
    const literal = (value: string) =>
      `mutation { setServerCredential(input: { serverId: "x", staticHeaders: ${value} }) { mode } }`;
    for (const [query, variables, told] of [
      [mutation, headers({ nam: 'X-Key', value: 'a; secret' }), /at "input.staticHeaders.headers\[0\]"; Field "name"/],
      [mutation, headers({ name: 'X-Key', value: ['a; secret'] }), /headers\[0\].value"; String cannot represent/],
      [mutation, { input: 'a; secret' }, /"\$input" got an invalid value; Expected type/],
      [literal('"a; secret"'), {}, /Expected value of type "\w+"\.$/],
      [
        literal('{ headers: [{ name: "X-Key", value: ["a; secret"] }] }'),
        {},
        /String cannot represent a non string value/,
      ],
    ] as const) {
      const { errors } = await plane.ask(query, variables);
      expect(errors[0]?.message).toMatch(told);
      expect(JSON.stringify(errors)).not.toContain('secret"');
    }
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

  test('a page of another origin gets no leave to ask', async () => {
    const headers = {
      origin: 'https://evil.example',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization, content-type',
    };
    const preflight = await fetch(plane.graphqlUrl, { method: 'OPTIONS', headers });
    const asked = await post('{"query":"{ me { id } }"}', { ...json, origin: 'https://evil.example' });
    for (const response of [preflight, asked]) {
      expect([...response.headers.keys()].filter((name) => name.startsWith('access-control-'))).toEqual([]);
      expect(response.headers.get('set-cookie')).toBeNull();
    }
    expect(preflight.status).toBe(405);
  });

  test('a failure inside tells the caller nothing of the inside', async () => {
    await sql`create function broken() returns trigger language plpgsql as
      'begin raise exception ''detail of table groups at host db-7''; end'`;
    await sql`create trigger broken before insert on groups execute function broken()`;
    try {
      const answer = await plane.ask('mutation { createGroup(input: { name: "x" }) { id } }');
      const [{ message, extensions, path, ...more } = { message: '', extensions: { code: '' } }] = answer.errors;
      expect([message, path]).toEqual([ERRORS.INTERNAL.publicMessage, ['createGroup']]);
      expect(extensions).toEqual({ code: 'INTERNAL', retryable: ERRORS.INTERNAL.retryable });
      expect(Object.keys(more)).toEqual(['locations']);
      expect(JSON.stringify(answer)).not.toMatch(/db-7|trigger|insert|stack|\.ts/i);
    } finally {
      await sql`drop function broken cascade`;
    }
  });

  test('no list gives more than 200 at once', async () => {
    const id = '01890000-0000-7000-8000-000000000000';
    const needed: Record<string, string> = {
      effectiveAccess: `principalId: "${id}",`,
      targetAccess: `serverId: "${id}", kind: TOOL, name: "x",`,
    };
    const lists = fieldsOf(apiSchema.getQueryType())
      .filter(isConnection)
      .filter(({ name, args }) => needed[name] !== undefined || !args.some((argument) => isRequiredArgument(argument)));
    expect(lists.length).toBeGreaterThan(10);
    const auditorKey = await keyOfAuditor();
    for (const { name } of lists) {
      const key = fieldPermissions[`Query.${name}`] === 'payload:read' ? auditorKey : plane.ownerKey;
      const answer = await plane.ask(`{ ${name}(${needed[name] ?? ''} first: 201) { edges { cursor } } }`, {}, key);
      const { code, violations } = answer.errors[0]?.extensions ?? { code: '' };
      const wrong = violations?.map(({ path, message }) => `${path} ${message}`);
      expect([name, code, wrong]).toEqual([name, 'INVALID_INPUT', ['first must be between 1 and 200']]);
    }
  });

  test('a query of a million values is refused at once', async () => {
    const began = performance.now();
    const nested =
      'servers(first: 200) { edges { node { definitions(first: 200) { edges { node { server { definitions(first: 200) { edges { cursor } } } } } } } } }';
    const answer = await plane.ask(`{ ${nested} }`);
    expect([answer.status, answer.errors[0]?.extensions.code]).toEqual([400, 'QUERY_TOO_COMPLEX']);
    expect(performance.now() - began).toBeLessThan(2_000);
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

  test.each([
    ['has too many aliases', `{ auditEventAdded { ${Array.from({ length: 16 }, (_, n) => `a${n}: id`).join(' ')} } }`],
    [
      'multiplies by fragments',
      `{ auditEventAdded { ...f0 } } ${Array.from({ length: 30 }, (_, n) => `fragment f${n} on AuditEvent { ...f${n + 1} ...f${n + 1} }`).join(' ')} fragment f30 on AuditEvent { id }`,
    ],
    ['is too long', `{ auditEventAdded { ${'id '.repeat(5_001)} } }`],
  ])('a subscription that %s is refused', async (_what, selection) => {
    const answer = await first(plane.ownerKey, `subscription ${selection}`);
    expect(answer).toMatchObject([{ extensions: { code: expect.stringMatching(/QUERY_TOO_COMPLEX|INVALID_INPUT/) } }]);
  });

  test('a socket holds 50 subscriptions and no more', async () => {
    const subscriber = client(plane.ownerKey);
    const refused = await new Promise<unknown>((resolve) => {
      for (let n = 0; n <= 50; n++) {
        const query = 'subscription { auditEventAdded { id } }';
        subscriber.subscribe({ query }, { next: () => {}, error: resolve, complete: () => {} });
      }
    });
    expect(refused).toMatchObject([{ extensions: { code: 'OVERLOADED' } }]);
    await subscriber.dispose();
  });

  test('over a socket, too, the schema is told to nobody without a role', async () => {
    const user = await plane.ask('mutation { createUser(input: { name: "still nobody" }) { id } }');
    const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
    const issued = await plane.ask('mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }', {
      input: { principalId: user.data.createUser.id, name: 'k', scopes: ['API'], expiresAt },
    });
    const key = issued.data.createApiKey.secret;
    const introspection = 'subscription { auditEventAdded { id } __schema { types { name } } }';
    expect(JSON.stringify(await first(key, introspection))).not.toContain('AuditEvent');
    expect(await first(key, 'subscription { auditEventAded { id } }')).toMatchObject([
      { message: 'The query is not valid.' },
    ]);
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
