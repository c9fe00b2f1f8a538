import {
  apiRoutes,
  type HttpRoute,
  nodeRoutes,
  operationsRoutes,
  type Permission,
  rolePermissions,
  type RouteMethod,
  scimRoutes,
} from '@sallyport/schema';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { z } from 'zod';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import {
  askToken,
  behindProxy,
  type Caller,
  fromElsewhere,
  makeCallers,
  makeProgram,
  type TestProgram,
} from './callers.ts';

/** Somebody who asks the control plane: with what, and what he may do there; undefined: he is nobody there. */
interface Asker {
  readonly name: string;
  readonly key: string | undefined;
  readonly permissions: readonly Permission[] | undefined;
}

let upstream: FakeUpstream;
let harness: Harness;
let callers: readonly Caller[];
let askers: readonly Asker[];
let apiOrigin: string;

const identified = z.object({ id: z.string() });
const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

async function makeAskers(): Promise<readonly Asker[]> {
  const { administrator } = harness;
  let last = '';
  const asker = async (role: 'viewer' | 'auditor' | 'admin' | 'member', more: object = {}): Promise<string> => {
    const account = { name: role, expiresAt: inDays(2) };
    const { id } = await administrator.mutate('createServiceAccount', account, 'id', identified);
    last = id;
    const key = { principalId: id, name: 'key', scopes: ['API'], expiresAt: inDays(1), ...more };
    // Before the role: nobody but an auditor makes a key that reads payloads.
    const issued = await administrator.mutate('createApiKey', key, 'secret', z.object({ secret: z.string() }));
    const document = 'mutation ($input: RoleInput!) { assignRole(input: $input) { id } }';
    await administrator.api.ask(document, { input: { principalId: id, role: role.toUpperCase() } }, z.unknown());
    return issued.secret;
  };
  const deactivated = await asker('admin');
  await administrator.mutate('updateServiceAccount', { id: last, status: 'DISABLED' }, 'id', identified);
  const ofNodes = callers.filter(({ name }) => name.startsWith('access token'));
  return [
    // Of an endpoint of a node: nothing here.
    ...ofNodes.map(({ name, key }) => ({ name, key, permissions: undefined })),
    { name: 'deactivated', key: deactivated, permissions: undefined },
    { name: 'anonymous', key: undefined, permissions: undefined },
    { name: 'unknown key', key: `sp_${'y'.repeat(43)}`, permissions: undefined },
    { name: 'key for nodes', key: await asker('auditor', { scopes: ['MCP'] }), permissions: undefined },
    {
      name: 'key from elsewhere',
      key: await asker('auditor', { networks: ['203.0.113.0/24'] }),
      permissions: undefined,
    },
    { name: 'no role', key: await asker('member'), permissions: [] },
    { name: 'viewer', key: await asker('viewer'), permissions: rolePermissions.viewer },
    { name: 'auditor', key: await asker('auditor'), permissions: rolePermissions.auditor },
    { name: 'admin', key: await asker('admin'), permissions: rolePermissions.admin },
    { name: 'narrow key', key: await asker('auditor', { permissions: ['user:read'] }), permissions: ['user:read'] },
  ];
}

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({
    upstreams: [upstream.url],
    nodes: 1,
    environment: behindProxy,
    authorizationServer: true,
  });
  apiOrigin = new URL(harness.controlPlane.graphqlUrl ?? '').origin;
  const { administrator } = harness;
  const [asked, other] = [
    await administrator.registerServer('asked', upstream.url),
    await administrator.registerServer('other', upstream.url),
  ];
  const selectors = { tools: ['count'], prompts: [], resources: [] };
  callers = await makeCallers(harness, { serverId: asked.id, otherServerId: other.id, selectors });
  askers = await makeAskers();
}, 60_000);
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

const allMethods: readonly Exclude<RouteMethod, 'UPGRADE'>[] = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
];
const pathOf = ({ path }: HttpRoute): string => path.replace('{slug}', 'asked').replace('{id}', 'some-id');

async function statusOf(url: string, method: string, key: string | undefined, body?: string): Promise<number> {
  const headers = {
    ...fromElsewhere(),
    accept: 'application/json, text/event-stream',
    ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
  };
  const aborting = new AbortController();
  const response = await fetch(url, {
    method,
    headers,
    signal: aborting.signal,
    ...(body === undefined ? {} : { body }),
  });
  aborting.abort();
  return response.status;
}

/**
 * The status that a row of the API port answers to somebody, by who may ask; where he is let in, whatever came of it as
 * long as it is no refusal.
 */
function expectedStatus({ access }: HttpRoute, { key, permissions }: Asker, status: number, anonymous: number): number {
  const letIn = [401, 403].includes(status) ? -1 : status;
  switch (access) {
    case 'public':
      // A key of the control plane counts for nothing there.
      return anonymous;
    case 'operator':
      return letIn;
    case 'directory':
    case 'node':
      // A token or key of the control plane is neither.
      return 401;
    case 'fields':
      // Without credentials the body says which fields are not for him.
      return permissions === undefined && key !== undefined ? 401 : letIn;
    case 'authenticated':
      return permissions === undefined ? 401 : letIn;
    case 'endpoint':
    case 'fleet':
      // They are on other ports.
      return 404;
    default:
      if (permissions === undefined) return 401;
      return permissions.includes(access) ? letIn : 403;
  }
}

type ApiRoute = keyof typeof apiRoutes;
/** What a row of the API port is asked with, where it needs something; what comes of it is told by its `access`. */
const probes: Readonly<Partial<Record<ApiRoute, { readonly query?: string; readonly body?: string }>>> = {
  graphql: { body: JSON.stringify({ query: '{ me { id } }' }) },
  auditExport: { query: '?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z' },
};

describe('every route of the API port, for everybody', () => {
  const rows = Object.entries(apiRoutes) as [ApiRoute, HttpRoute][];
  test.each(rows)('%s', async (name, route) => {
    const { query = '', body = '{}' } = probes[name] ?? {};
    for (const method of allMethods.filter((one) => route.methods.includes(one))) {
      const sent = method === 'POST' || method === 'PUT' || method === 'PATCH' ? body : undefined;
      const ask = ({ key }: Asker): Promise<number> =>
        statusOf(`${apiOrigin}${pathOf(route)}${query}`, method, key, sent);
      const anonymous = await ask({ name: '', key: undefined, permissions: undefined });
      for (const asker of askers) {
        const status = await ask(asker);
        expect([method, asker.name, status]).toEqual([
          method,
          asker.name,
          expectedStatus(route, asker, status, anonymous),
        ]);
      }
    }
  });

  test('no route takes a method that its row does not name', async () => {
    for (const [, route] of rows) {
      for (const method of allMethods.filter((one) => !route.methods.includes(one))) {
        const status = await statusOf(`${apiOrigin}${pathOf(route)}`, method, askers.at(-2)?.key);
        expect([route.path, method, [404, 405].includes(status)]).toEqual([route.path, method, true]);
      }
    }
  });

  test('what is in no row is not served', async () => {
    for (const path of ['/', '/graphql/x', '/audit', '/admin', '/scim', '/mcp/asked', '/metrics', '/.env']) {
      for (const asker of askers) expect(await statusOf(`${apiOrigin}${path}`, 'GET', asker.key)).toBe(404);
    }
  });
});

interface Directory {
  readonly token: string;
  readonly tokenId: string;
  readonly user: string;
  readonly group: string;
}

/** A SCIM directory with a user and a group of its own. */
async function makeDirectory(name: string): Promise<Directory> {
  const { administrator } = harness;
  const about = { name, issuer: `https://${name}.example` };
  const directory = await administrator.mutate('createScimDirectory', about, 'id', identified);
  const input = { directoryId: directory.id, name: 'push', expiresAt: inDays(1) };
  const answer = z.object({ secret: z.string(), scimToken: identified });
  const made = await administrator.mutate('createScimToken', input, 'secret scimToken { id }', answer);
  const create = async (path: string, body: object): Promise<string> => {
    const response = await fetch(`${apiOrigin}/scim/v2${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${made.secret}`, 'content-type': 'application/scim+json' },
      body: JSON.stringify(body),
    });
    return identified.parse(await response.json()).id;
  };
  const core = 'urn:ietf:params:scim:schemas:core:2.0';
  return {
    token: made.secret,
    tokenId: made.scimToken.id,
    user: await create('/Users', { schemas: [`${core}:User`], userName: `ada of ${name}` }),
    group: await create('/Groups', { schemas: [`${core}:Group`], displayName: `all of ${name}` }),
  };
}

describe('every route of SCIM, for tokens of directories', () => {
  let own: Directory;
  let other: Directory;
  const ended: [name: string, token: string][] = [];
  beforeAll(async () => {
    [own, other] = [await makeDirectory('corp'), await makeDirectory('branch')];
    const [revoked, expired] = [await makeDirectory('revoked'), await makeDirectory('expired')];
    await harness.administrator.mutate('revokeScimToken', { id: revoked.tokenId }, 'id', identified);
    const sql = postgres(harness.databaseUrl);
    await sql`update scim_tokens set expires_at = now() - interval '1 second' where id = ${expired.tokenId}`;
    await sql.end();
    ended.push(['revoked', revoked.token], ['expired', expired.token]);
  });
  const rows = Object.entries(scimRoutes) as [keyof typeof scimRoutes, HttpRoute][];
  const change = { op: 'replace', path: 'displayName', value: 'Another' };
  const bodies: Readonly<Record<string, object>> = {
    PUT: {
      schemas: ['User', 'Group'].map((kind) => `urn:ietf:params:scim:schemas:core:2.0:${kind}`),
      userName: 'another',
      displayName: 'Another',
    },
    PATCH: { schemas: ['urn:ietf:params:scim:api:messages:2.0:PatchOp'], Operations: [change] },
  };
  const ask = async (method: string, path: string, token: string): Promise<{ status: number; text: string }> => {
    const hasBody = ['POST', 'PUT', 'PATCH'].includes(method);
    const response = await fetch(`${apiOrigin}${path}`, {
      method,
      headers: {
        ...fromElsewhere(),
        authorization: `Bearer ${token}`,
        ...(hasBody ? { 'content-type': 'application/scim+json' } : {}),
      },
      ...(hasBody ? { body: JSON.stringify(bodies[method] ?? {}) } : {}),
    });
    return { status: response.status, text: await response.text() };
  };

  test.each(rows)('%s', async (name, route) => {
    const unknown = '01890000-0000-7000-8000-0000000000ff';
    for (const method of allMethods.filter((one) => route.methods.includes(one))) {
      const at = (id: string): string => route.path.replace('{id}', id);
      for (const [why, token] of ended)
        expect([why, (await ask(method, at(own.user), token)).status]).toEqual([why, 401]);
      expect([401, 403]).not.toContain((await ask(method, at(unknown), own.token)).status);
      if (name !== 'scimUser' && name !== 'scimGroup') continue;
      const id = name === 'scimUser' ? own.user : own.group;
      // Of another directory it is as what does not exist; one's own is found, at last by the method that deletes it.
      const [theirs, nobodys] = [await ask(method, at(id), other.token), await ask(method, at(unknown), other.token)];
      expect([theirs.status, theirs.text]).toEqual([404, nobodys.text]);
      expect((await ask(method, at(id), own.token)).status).not.toBe(404);
    }
  });

  test('open nothing but SCIM', async () => {
    const { graphql, auditExport } = apiRoutes;
    expect(await statusOf(`${apiOrigin}${graphql.path}`, 'POST', own.token, probes.graphql?.body)).toBe(401);
    expect(await statusOf(`${apiOrigin}${auditExport.path}${probes.auditExport?.query}`, 'GET', own.token)).toBe(401);
    const ping = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' });
    expect(await statusOf(`${harness.entryOrigin}/mcp/asked`, 'POST', own.token, ping)).toBe(401);
  });
});

/** The first message after which the other side says no, or undefined where the socket is not opened at all. */
function socketAnswer(path: string, key: string | undefined, first: (socket: WebSocket) => void, protocol?: string) {
  const headers = { ...fromElsewhere(), ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) };
  const socket = new WebSocket(`${apiOrigin.replace('http', 'ws')}${path}`, protocol === undefined ? [] : [protocol], {
    headers,
  });
  const heard: string[] = [];
  return new Promise<readonly string[]>((resolve) => {
    socket.on('open', () => first(socket));
    socket.on('message', (data: Buffer) => void heard.push(data.toString()));
    socket.on('error', () => undefined);
    socket.on('close', (code) => resolve([...heard, `closed ${code}`]));
  });
}

describe('every upgrade of the API port', () => {
  test('a node is admitted by its own proof, whatever key comes along', async () => {
    const hello = (socket: WebSocket): void => {
      const auth = { kind: 'join', token: 'nonsense' };
      const publicKey = Buffer.from('nonsense').toString('base64');
      const about = { name: 'n', build: '0', formats: [1], labels: {}, peerUrl: null, applied: null, spoolEpochs: [] };
      socket.send(JSON.stringify({ type: 'hello', auth, publicKey, ...about }));
    };
    for (const asker of askers) {
      const heard = await socketAnswer(apiRoutes.sync.path, asker.key, hello);
      const types = heard.slice(0, -1).map((text) => (JSON.parse(text) as { type: string }).type);
      expect([asker.name, types]).toEqual([asker.name, ['challenge', 'refused']]);
    }
  });

  test('a socket of the API is opened to actors alone', async () => {
    for (const asker of askers) {
      const heard = await socketAnswer(
        apiRoutes.graphql.path,
        undefined,
        (socket) => {
          const payload = asker.key === undefined ? {} : { authorization: `Bearer ${asker.key}` };
          socket.on('message', (data: Buffer) => {
            if (data.toString().includes('connection_ack')) socket.close(1000);
          });
          socket.send(JSON.stringify({ type: 'connection_init', payload }));
        },
        'graphql-transport-ws',
      );
      const expected = asker.permissions === undefined ? 'closed 4403' : 'closed 1000';
      expect([asker.name, heard.at(-1)]).toEqual([asker.name, expected]);
    }
  });

  test('no other path takes an upgrade', async () => {
    const plain = Object.values(apiRoutes).filter(({ methods }) => !(methods as readonly string[]).includes('UPGRADE'));
    for (const path of ['/', '/syncs', ...plain.map(pathOf)]) {
      expect(await socketAnswer(path, undefined, () => undefined)).toEqual(['closed 1006']);
    }
  });
});

describe('every route of a node', () => {
  const statuses = { unauthenticated: 401, hidden: 404 } as const;
  test.each(Object.entries(nodeRoutes))('%s', async (_name, route: HttpRoute) => {
    const ping = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' });
    for (const method of allMethods.filter((one) => route.methods.includes(one))) {
      const body = method === 'POST' ? ping : undefined;
      const ask = (key: string | undefined): Promise<number> =>
        statusOf(`${harness.entryOrigin}${pathOf(route)}`, method, key, body);
      const anonymous = await ask(undefined);
      for (const caller of callers) {
        const status = await ask(caller.key);
        const letIn = status === 401 || status === 404 ? -1 : status;
        const byStanding = caller.standing === 'granted' ? letIn : statuses[caller.standing];
        const expected = route.access === 'public' ? anonymous : byStanding;
        expect([method, caller.name, status]).toEqual([method, caller.name, expected]);
      }
    }
  });

  test('a server that is hidden answers as one that does not exist, to the byte', async () => {
    const answer = async (slug: string, key: string | undefined): Promise<string> => {
      const headers = {
        ...fromElsewhere(),
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
      };
      const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' });
      const response = await fetch(`${harness.entryOrigin}/mcp/${slug}`, { method: 'POST', headers, body });
      return `${response.status} ${await response.text()}`;
    };
    for (const caller of callers.filter(({ standing }) => standing !== 'granted')) {
      expect([caller.name, await answer('asked', caller.key)]).toEqual([
        caller.name,
        await answer('nowhere', caller.keyForNowhere ?? caller.key),
      ]);
    }
  });

  test('what is in no row is not served', async () => {
    for (const path of ['/', '/mcp', '/mcp/', '/mcp/asked/x', '/MCP/asked', '/metrics', '/graphql']) {
      for (const caller of callers) {
        expect([path, await statusOf(`${harness.entryOrigin}${path}`, 'GET', caller.key)]).toEqual([path, 404]);
      }
    }
  });
});

describe('every route of the operations ports', () => {
  test.each(Object.entries(operationsRoutes))('%s', async (_name, route: HttpRoute) => {
    const [node] = harness.nodes;
    for (const origin of [harness.controlPlane.operationsUrl, node?.operationsUrl ?? '']) {
      for (const method of allMethods) {
        const status = await statusOf(`${origin}${route.path}`, method, undefined);
        expect([method, status]).toEqual([method, route.methods.includes(method) ? 200 : 405]);
      }
      expect(await statusOf(`${origin}/graphql`, 'GET', undefined)).toBe(404);
    }
  });
});

describe('the routes of the authorization server, for clients', () => {
  let program: TestProgram;
  let other: TestProgram;
  beforeAll(async () => {
    // The authorization server cannot sign by it, and nobody is asked as a caller of nodes any more.
    const sql = postgres(harness.databaseUrl);
    await sql`delete from oauth_signing_keys where sealed_private_key = ''`;
    await sql.end();
    const account = { name: 'of programs', expiresAt: inDays(2) };
    const { id } = await harness.administrator.mutate('createServiceAccount', account, 'id', identified);
    [program, other] = [await makeProgram(harness, id), await makeProgram(harness, id)];
  });
  const refusalOf = async (response: Response): Promise<[number, string]> => [
    response.status,
    z.object({ error: z.string() }).parse(await response.json()).error,
  ];
  /** What may be done with a token or client somewhere, sent in a form as RFC 6749 and 7009 say. */
  const post = (path: string, form: Record<string, string>, { id, secret }: TestProgram): Promise<Response> =>
    fetch(`${apiOrigin}${path}`, {
      method: 'POST',
      headers: { ...fromElsewhere(), authorization: `Basic ${btoa(`${id}:${secret}`)}` },
      body: new URLSearchParams(form),
    });

  test('a token is for a client that shows who it is, for an endpoint of nodes, and while the client exists', async () => {
    expect((await askToken(harness, program, 'asked')).status).toBe(200);
    expect(await refusalOf(await askToken(harness, { ...program, secret: other.secret }, 'asked'))).toEqual([
      401,
      'invalid_client',
    ]);
    const form = { grant_type: 'client_credentials', scope: 'mcp' };
    for (const resource of ['https://elsewhere.example/mcp/asked', `${apiOrigin}/graphql`]) {
      const answer = await refusalOf(await post(apiRoutes.oauthToken.path, { ...form, resource }, program));
      expect([resource, ...answer]).toEqual([resource, 400, 'invalid_target']);
    }
    const gone = await makeProgram(harness, (await harness.administrator.createClient('gone')).principalId);
    await harness.administrator.mutate('deleteOAuthClient', { id: gone.id }, 'id', identified);
    expect(await refusalOf(await askToken(harness, gone, 'asked'))).toEqual([401, 'invalid_client']);
  });

  test('codes and refresh tokens that are of nobody, of another, or no such thing, open nothing', async () => {
    const token = z
      .object({ access_token: z.string() })
      .parse(await (await askToken(harness, program, 'asked')).json());
    for (const refresh_token of ['unknown', token.access_token]) {
      const form = { grant_type: 'refresh_token', refresh_token };
      const [status] = await refusalOf(await post(apiRoutes.oauthToken.path, form, program));
      expect([refresh_token === 'unknown', status]).toEqual([refresh_token === 'unknown', 400]);
    }
    expect((await post(apiRoutes.oauthRevoke.path, { token: 'unknown' }, program)).status).toBe(200);
    expect((await post(apiRoutes.oauthRevoke.path, { token: 'unknown' }, { ...program, secret: 'wrong' })).status).toBe(
      401,
    );
  });

  test('a page of a login that is of another browser, or of nobody, shows nothing', async () => {
    for (const name of ['oauthInteraction', 'oauthResume', 'oauthLoggedIn', 'oauthProvider'] as const) {
      const path = apiRoutes[name].path.replace('{id}', 'x'.repeat(21));
      for (const key of [undefined, callers.find((caller) => caller.name === 'access token')?.key]) {
        const status = await statusOf(`${apiOrigin}${path}`, 'GET', key);
        expect([name, status >= 400]).toEqual([name, true]);
      }
    }
  });
});
