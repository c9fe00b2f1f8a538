import { connect as connectTcp } from 'node:net';
import {
  apiRoutes,
  credentialModes,
  type HttpRoute,
  nodeRoutes,
  operationsRoutes,
  type RouteMethod,
} from '@sallyport/schema';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { legacy, modern, type Sent, send } from '../data-plane/requests.ts';
import type { ClientAccount } from '../kit/administrator.ts';
import { canaryMaker, found } from '../kit/canaries.ts';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane } from '../kit/control-plane.ts';
import { dump } from '../kit/postgres.ts';
import { saying } from '../kit/webhook-receiver.ts';
import { idpClient } from '../oauth/fake-identity-provider.ts';
import { tokenOf } from '../oauth/federation-kit.ts';
import { authorizationRequest, submit } from '../oauth/oauth-kit.ts';
import { answerFor, linkOf, logIn, open } from './connecting-kit.ts';
import { keyFile } from './credential-kit.ts';
import { gather } from './gather-channels.ts';
import { besides, canary, carrying, CarryingBrowser, cookie, inbound, query, traceId } from './inbound.ts';
import { isWelcome, modesOf, ours, startTopology, type Topology } from './leak-topology.ts';

/** Keys that are tried from one network, until it has to wait at the latest. */
const guessesMax = 200;

describe('secrets of a client, and those of the gateway', () => {
  let t: Topology;
  let nodes: readonly string[];
  let apiOrigin: string;
  /** Put where the protocol expects something else, and refused for that. */
  const misplaced: Record<string, string> = {};
  /** For whom no account is connected. */
  let stranger: ClientAccount;
  /** Of Ada, by the server they are for. */
  const accessTokens: Record<string, string> = {};
  /** What the gateway gives to a browser and to a client. */
  const issued: Record<string, string> = {};
  /** What is said in a call, which is for the upstream and for those who may see messages. */
  const argument = canaryMaker()();
  const call = { name: 'count', arguments: { id: argument } };
  const executed = expect.stringContaining(`executed ${argument}`) as string;

  beforeAll(async () => {
    t = await startTopology();
    nodes = t.harness.nodes.map(({ url }) => url);
    apiOrigin = t.users.issuer;
    stranger = await t.harness.administrator.createClient('Stranger');
    for (const slug of ['own', 'exchanged', 'told']) {
      accessTokens[slug] = await tokenOf(t.users, t.harness.endpoint(slug, '').url);
    }
    await t.harness.administrator.converged();
  }, 120_000);
  afterAll(() => t.stop());

  const misplace = (where: string): string => (misplaced[where] ??= canary());

  /** Asks a node, with secrets everywhere. */
  async function ask(url: string, sent: Sent = {}, key = t.ada.key) {
    const headers = { authorization: `Bearer ${key}`, cookie, ...besides, ...sent.headers };
    const answer = await send(carrying(url).href, { ...sent, headers });
    t.watch.add('answers of nodes', String(answer.status), JSON.stringify(answer.headers), answer.text);
    return answer;
  }

  const client = { capabilities: {}, clientInfo: { name: 'raw', version: '1' } };

  /** A client of 2025-11-25, or an older one, that a balancer sends to one node and then to another. */
  async function callInSession(slug: string, protocolVersion: string, key?: string): Promise<number> {
    const [first, second] = nodes.map((url) => `${url}/mcp/${slug}`) as [string, string];
    const inRevision = ({ body }: { readonly body: string }, session: object): Sent => ({
      body,
      headers: { 'mcp-protocol-version': protocolVersion, ...session },
    });
    const opened = await ask(first, { body: legacy('initialize', { protocolVersion, ...client }).body }, key);
    const id = opened.headers['mcp-session-id'];
    const session = id === undefined ? {} : { 'mcp-session-id': String(id) };
    const initialized = JSON.stringify({ jsonrpc: '2.0', method: 'notifications/initialized' });
    await ask(second, inRevision({ body: initialized }, session), key);
    const { status, text } = await ask(second, inRevision(legacy('tools/call', call, 2), session), key);
    if (protocolVersion === '2025-03-26') {
      const batch = [legacy('tools/call', call, 3), legacy('ping', {}, 4)].map(({ body }) => body);
      await ask(first, inRevision({ body: `[${batch.join(',')}]` }, session), key);
    }
    await ask(second, { method: 'DELETE', headers: session }, key);
    return text.includes('executed') ? status : 0;
  }

  /** A client of 2024-11-05: an event stream at one node, and messages to where that says, which come to the other. */
  async function callOverEvents(slug: string): Promise<string> {
    const [first = '', second = ''] = nodes;
    const ends = new AbortController();
    let text = '';
    const endpoint = `${first}/mcp/${slug}`;
    const stream = ask(endpoint, {
      method: 'GET',
      headers: { accept: 'text/event-stream' },
      signal: ends.signal,
      onChunk: (chunk) => (text += chunk),
    }).catch(() => undefined);
    const place = await waitFor('the endpoint', () => /^data: (\S+)/m.exec(text)?.[1]);
    const post = ({ body }: { readonly body: string }) => ask(new URL(place, second).href, { body });
    await post(legacy('initialize', { protocolVersion: '2024-11-05', ...client }));
    await waitFor('the answer', () => text.includes('"id":1'));
    await post({ body: JSON.stringify({ jsonrpc: '2.0', method: 'notifications/initialized' }) });
    await post(legacy('tools/call', call, 2));
    await waitFor('the result', () => text.includes('"id":2'));
    ends.abort();
    await stream;
    t.watch.add('answers of nodes', text);
    return text;
  }

  const callModern = (node: string, slug: string, key?: string) =>
    ask(`${node}/mcp/${slug}`, modern('tools/call', call), key);

  test('there is a server for each credential mode that there is', () => {
    expect(new Set(modesOf('').map(({ mode }) => mode))).toEqual(new Set(credentialModes));
    expect(Object.keys(inbound).length).toBeGreaterThanOrEqual(12);
  });

  test('a server of each mode is called with what the mode says, by clients of each era, and again with another where that is refused', async () => {
    const modes = modesOf(t.as.url);
    for (const { slug, shows } of modes) {
      const before = t.upstream.requests.length;
      for (const node of nodes) expect([slug, (await callModern(node, slug)).text]).toEqual([slug, executed]);
      expect([slug, await callInSession(slug, '2025-11-25')]).toEqual([slug, 200]);
      const shown = t.upstream.requests
        .slice(before)
        .map(({ headers }) => headers.authorization?.slice(0, shows?.length));
      expect([slug, new Set(shown)]).toEqual([slug, new Set([shows ?? undefined])]);
    }
    for (const [slug, token] of Object.entries(accessTokens)) {
      for (const node of nodes) expect([slug, (await callModern(node, slug, token)).text]).toEqual([slug, executed]);
      expect([slug, await callInSession(slug, '2025-06-18', token)]).toEqual([slug, 200]);
    }
    const ended = new Set(t.upstream.requests.map(({ headers }) => headers.authorization));
    t.upstream.guard((request) => isWelcome(request) && !ended.has(request.headers.authorization));
    const answers: [slug: string, text: string][] = [];
    for (const { slug } of modes) answers.push([slug, (await callModern(nodes[0] ?? '', slug)).text]);
    // Of what does not end there is no other.
    const refused = answers.filter(([, text]) => !text.includes(`executed ${argument}`));
    expect(refused.map(([slug]) => slug)).toEqual(['open', 'own']);
    t.upstream.guard(isWelcome);
  }, 120_000);

  test('upstreams of either era and transport are called by clients of all', async () => {
    for (const slug of ['legacy', 'modern', 'old']) {
      for (const node of nodes) expect([slug, (await callModern(node, slug)).text]).toEqual([slug, executed]);
      for (const revision of ['2025-11-25', '2025-03-26']) {
        await waitFor(`${slug} is called in ${revision}`, async () => (await callInSession(slug, revision)) === 200);
      }
    }
    for (const slug of ['own', 'told', 'modern', 'old']) expect(await callOverEvents(slug)).toContain('executed');
  }, 120_000);

  /** What of a client is refused, and the status or the code that says so. */
  function refusals(): readonly (readonly [what: string, expected: string, slug: string, sent: Sent])[] {
    const given = modern('tools/call', call);
    const having = (headers: Sent['headers']): Sent => ({ ...given, headers: { ...given.headers, ...headers } });
    const basic = btoa(`user:${misplace('a password')}`);
    return [
      ['no key', '401', 'own', having({ authorization: undefined })],
      ['another key', '401', 'own', having({ authorization: `Bearer ${misplace('another key')}` })],
      ['a key of nobody', '401', 'own', having({ authorization: `Bearer sp_${misplace('a key of nobody')}` })],
      ['a password', '401', 'own', having({ authorization: `Basic ${basic}` })],
      ['an origin', '403', 'own', having({ origin: `https://${misplace('an origin')}.example` })],
      ['a host', '403', 'own', having({ host: `${misplace('a host')}.example` })],
      ['a server that there is not', '404', 'nowhere', given],
      ['a path', '404', `own/${misplace('a path')}`, given],
      ['a method', '405', 'own', { ...given, method: 'PUT' }],
      ['an accept', '406', 'own', having({ accept: `text/${misplace('an accept')}` })],
      ['a content type', '415', 'own', having({ 'content-type': `text/${misplace('a content type')}` })],
      ['a body without end', '413', 'own', { ...given, body: Buffer.alloc(5 * 1_048_576, ' ') }],
      ['a body that is no JSON', '-32700', 'own', { ...given, body: '{"jsonrpc":' }],
      ['a mirrored method', '-32020', 'own', having({ 'mcp-method': misplace('a mirrored method') })],
      ['a mirrored name', '-32020', 'own', having({ 'mcp-name': misplace('a mirrored name') })],
      ['a revision', '-32022', 'own', { ...legacy('ping'), headers: { 'mcp-protocol-version': '1900-01-01' } }],
      ['a session', '404', 'own', { ...legacy('ping'), headers: { 'mcp-session-id': misplace('a session') } }],
      [
        'an event',
        '404',
        'own',
        { method: 'GET', headers: { accept: 'text/event-stream', 'last-event-id': misplace('an event') } },
      ],
      ['a tool that is not granted', '-32602', 'own', modern('tools/call', { name: 'slow', arguments: {} })],
      ['an account that is not connected', '/oauth/connect/', 'personal', given],
    ];
  }

  test('refusals of the gateway are of each kind', async () => {
    for (const [what, expected, slug, sent] of refusals()) {
      const { key } = what.startsWith('an account') ? stranger : t.ada;
      const { status, text } = await ask(`${nodes[0]}/mcp/${slug}`, sent, key);
      expect([what, `${status} ${text}`]).toEqual([what, expect.stringContaining(expected)]);
    }
    const { onExchange } = t.as;
    t.as.onExchange = () => ({ error: 'invalid_target' });
    expect((await callModern(nodes[0] ?? '', 'exchanged', stranger.key)).status).toBe(503);
    t.as.onExchange = onExchange;
    t.asked.answer(saying({ decision: 'deny', reasonCode: 'not.today' }));
    for (const slug of ['own', 'old']) expect((await callModern(nodes[1] ?? '', slug)).text).toContain('1023');
    t.asked.answer(saying({ decision: 'allow' }));
    const garbage = `POST /mcp/own?${query} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-key ${misplace('a broken header')}\r\n\r\n`;
    for (const node of nodes) expect(await rawAnswer(new URL(node), garbage)).toContain('400');
    const guesses = new Set<number>();
    for (let tries = 0; tries < guessesMax && !guesses.has(429); tries++) {
      guesses.add((await callModern(nodes[0] ?? '', 'own', `sp_${misplace('a guess')}`)).status);
    }
    expect([...guesses]).toEqual([401, 429]);
  }, 60_000);

  /** What is answered to bytes. */
  function rawAnswer({ hostname, port }: URL, bytes: string): Promise<string> {
    return new Promise((resolve, reject) => {
      let text = '';
      const socket = connectTcp(Number(port), hostname, () => socket.write(bytes));
      socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
      socket.on('error', reject);
      socket.on('close', () => {
        t.watch.add('answers of nodes', text);
        resolve(text);
      });
    });
  }

  test('refusals and failures of an upstream are of each kind, and its redirects are not followed', async () => {
    const head = { 'content-type': 'application/json' };
    const challenge = { 'www-authenticate': 'Bearer error="insufficient_scope", scope="more"' };
    type Answering = Parameters<Topology['upstream']['intercept']>[0];
    const answers: readonly Answering[] = [
      ...[400, 404, 429, 500, 503].map<Answering>((status) => (_request, response) => {
        response.writeHead(status, { ...head, 'retry-after': '1' }).end('{"error":"no"}');
        return true;
      }),
      ...[301, 302, 307, 308].map<Answering>((status) => (_request, response) => {
        response.writeHead(status, { location: t.elsewhere.url }).end();
        return true;
      }),
      (_request, response) => {
        response.writeHead(401, { 'www-authenticate': 'Bearer error="invalid_token"' }).end();
        return true;
      },
      (_request, response) => {
        response.writeHead(403, challenge).end();
        return true;
      },
      (_request, response) => {
        response.writeHead(200, head).end('{"jsonrpc":');
        return true;
      },
      (_request, response) => {
        response.destroy();
        return true;
      },
    ];
    for (const answering of answers) {
      for (const slug of ['open', 'own', 'exchanged']) {
        t.upstream.intercept(answering);
        expect((await callModern(nodes[0] ?? '', slug)).text).toContain('"error"');
        await ask(`${nodes[0]}/mcp/${slug}`, {
          body: legacy('initialize', { protocolVersion: '2025-11-25', ...client }).body,
        });
      }
    }
    t.upstream.intercept(() => false);
    expect(t.elsewhere.requests).toEqual([]);
  }, 60_000);

  test('pages of the control plane, and every route of it, are asked, by nobody and by somebody', async () => {
    const browsers = Array.from({ length: 3 }, () => new CarryingBrowser(apiOrigin));
    const [browser, unknown, another] = browsers as [CarryingBrowser, CarryingBrowser, CarryingBrowser];
    await logIn(browser, `${apiOrigin}/oauth/account`);
    const personal = t.serverIds.get('personal') ?? '';
    const connected = await browser.request(await answerFor(t.harness, browser, await linkOf(t.ada, personal), t.ada));
    expect([connected.status, connected.text.includes('Your account is connected')]).toEqual([200, true]);
    const denied = await answerFor(t.harness, browser, await linkOf(t.ada, personal), t.ada);
    denied.searchParams.set('error', 'access_denied');
    expect((await browser.request(denied)).status).toBe(403);
    const resource = t.harness.endpoint('own', '').url;
    const asking = { resource, scope: 'mcp' };
    const { url } = authorizationRequest(t.users, t.users.clientId, asking);
    const page = await browser.follow(url);
    const { location } = page.location === null ? await submit(browser, page, { decision: 'allow' }) : page;
    issued['a code'] = location?.searchParams.get('code') ?? '';
    issued['a session'] = browser.cookies.get('sallyport_session')?.value ?? '';
    expect(Object.values(issued).map(({ length }) => length)).toEqual([43, 43]);
    // Of a browser that nobody knows: to the client with an error, and to the login, by a code and at the provider.
    const silent = authorizationRequest(t.users, t.users.clientId, { ...asking, prompt: 'none' });
    expect((await unknown.follow(silent.url)).location?.searchParams.get('error')).toBe('login_required');
    await open(t.harness, unknown, `${apiOrigin}/oauth/account`, t.ada);
    await logIn(another, await linkOf(t.ada, t.serverIds.get('asserted') ?? ''));
    for (const { status, headers, text, location: target } of browsers.flatMap(({ shown }) => shown)) {
      t.watch.add('answers of the control plane', `${status} ${JSON.stringify([...headers])} ${text}`);
      if (target !== null) t.watch.add('redirect targets', target.href);
      // No page is told to others as where somebody came from.
      const policies = target === null ? ['same-origin', 'no-referrer'] : [null, 'no-referrer'];
      expect(policies).toContain(headers.get('referrer-policy'));
    }
    const { ownerKey } = t.harness;
    for (const key of [undefined, ownerKey, misplace('a key for the API')]) await askRoutes(apiOrigin, apiRoutes, key);
    await askSocket(apiRoutes.sync.path, {
      ...{ type: 'hello', auth: { kind: 'join', token: misplace('a join token') }, publicKey: btoa('nonsense') },
      ...{ name: 'n', build: '0', formats: [1], labels: {}, peerUrl: null, applied: null, spoolEpochs: [] },
    });
    const payload = { authorization: `Bearer ${misplace('a key in a socket')}` };
    await askSocket(apiRoutes.graphql.path, { type: 'connection_init', payload }, 'graphql-transport-ws');
    const operations = [t.harness.controlPlane, ...t.harness.nodes].map(({ operationsUrl }) => operationsUrl);
    for (const origin of operations) await askRoutes(origin, operationsRoutes, undefined);
    for (const origin of nodes) await askRoutes(origin, nodeRoutes, undefined);
  }, 120_000);

  /** What a socket says until it is closed, as it is where what comes first is refused. */
  function askSocket(path: string, first: object, protocol?: string): Promise<void> {
    const url = carrying(`${apiOrigin.replace('http', 'ws')}${path}`);
    const socket = new WebSocket(url, protocol === undefined ? [] : [protocol], { headers: { cookie, ...besides } });
    return new Promise((resolve) => {
      socket.on('open', () => socket.send(JSON.stringify(first)));
      socket.on('message', (data: Buffer) => t.watch.add('answers of the control plane', data.toString()));
      socket.on('error', (error) => t.watch.add('answers of the control plane', String(error)));
      socket.on('close', (code, reason) => {
        t.watch.add('answers of the control plane', `closed ${code} ${reason.toString()}`);
        resolve();
      });
    });
  }

  async function askRoutes(
    origin: string,
    routes: Readonly<Record<string, HttpRoute>>,
    key: string | undefined,
  ): Promise<void> {
    const authorization = key === undefined ? {} : { authorization: `Bearer ${key}` };
    for (const { path, methods } of Object.values(routes)) {
      const url = carrying(new URL(path.replace('{slug}', 'own').replace('{id}', 'x'.repeat(21)), origin));
      for (const method of methods.filter((one): one is Exclude<RouteMethod, 'UPGRADE'> => one !== 'UPGRADE')) {
        const hasBody = ['POST', 'PUT', 'PATCH'].includes(method);
        const aborting = new AbortController();
        const response = await fetch(url, {
          method,
          redirect: 'manual',
          signal: aborting.signal,
          headers: { cookie, ...besides, ...authorization, ...(hasBody ? { 'content-type': 'application/json' } : {}) },
          ...(hasBody ? { body: '{}' } : {}),
        });
        const target = response.headers.get('location');
        if (target !== null) t.watch.add('redirect targets', target);
        const head = `${method} ${path} ${response.status} ${JSON.stringify([...response.headers])}`;
        t.watch.add('answers of the control plane', head, await response.text());
        aborting.abort();
      }
    }
  }

  test('none of them is on any channel where it does not belong, in whatever form, and no channel was overlooked', async () => {
    await gather(t);
    expect(t.watch.blind()).toEqual([]);
    const traces = t.upstreams.flatMap(({ requests }) => requests.map(({ headers }) => headers['traceparent']));
    expect(traces.filter((trace) => String(trace).startsWith(`00-${traceId}-`)).length).toBeGreaterThan(0);
    const secrets = { ...inbound, ...misplaced };
    expect(t.watch.seen({ secrets })).toEqual({});
    // A node that cannot answer hands the client's credential on, to be checked where the answer is made.
    const signatures = Object.entries(accessTokens).map(([slug, token]) => [slug, token.split('.')[2] ?? '']);
    const credentials = { 'API key': t.ada.key, 'of a stranger': stranger.key, ...Object.fromEntries(signatures) };
    const digested = ['API key', 'of a stranger'];
    expect(t.watch.seen({ secrets: credentials, digested })).toEqual({ 'between nodes': ['API key'] });
    // What a call says is for the upstream and for who may see messages: so what is looked at is seen.
    expect(Object.keys(t.watch.seen({ secrets: { argument } })).sort()).toEqual([
      'answers of nodes',
      'between nodes',
      'captured messages',
      'requests to upstreams',
      'requests to upstreams of HTTP+SSE',
      'webhooks about messages',
    ]);
    expect(t.watch.seen({ secrets: { ...ours, 'secret at the provider': idpClient.secret } })).toEqual({
      'requests to authorization servers': ['secret of a client'],
      'requests to the identity provider': ['secret at the provider'],
      'requests to upstreams': ['header of a service'],
      'requests to upstreams of HTTP+SSE': ['header of a service'],
    });
    expect(t.watch.seen({ secrets: issued, digested: Object.keys(issued) })).toEqual({
      'answers of the control plane': ['a code', 'a session'],
      'redirect targets': ['a code'],
    });
  }, 120_000);

  test('nor is any token that the gateway has for upstreams where it is not for', () => {
    // Each of them, as one may have been got ahead of its use and never been shown to anybody.
    const live = t.watch.seen({ secrets: Object.fromEntries([...t.as.live].map((token) => [token, token])) });
    expect(Object.keys(live)).toEqual(['requests to upstreams']);
    const kinds = new Set(
      Object.values(live)
        .flat()
        .map((token) => token.split('_')[0]),
    );
    expect(kinds).toEqual(new Set(['at', 'cc', 'ja', 'tx']));
    const refreshes = [...t.as.families.values()].map(({ current }) => [current, current] as const);
    const seen = t.watch.seen({ secrets: Object.fromEntries(refreshes) });
    expect(['requests to authorization servers']).toEqual(expect.arrayContaining(Object.keys(seen)));
    const signature = (token: unknown): string => String(token).split('.')[2] ?? '';
    const sent = (name: string) => t.as.requests.map(({ form }) => form.get(name)).findLast((token) => token !== null);
    const shown = t.upstream.requests.map(({ headers }) => headers.authorization);
    const signed = {
      'ID token': signature(t.idp.assertionRequests.at(-1)?.['subject_token']),
      'assertion of a user': signature(sent('assertion')),
      'assertion of a client': signature(sent('client_assertion')),
      'subject of an exchange': signature(sent('subject_token')),
      'identity of a caller': signature(shown.findLast((token) => token?.startsWith('Bearer eyJ'))),
    };
    expect(Object.values(signed).every(({ length }) => length > 80)).toBe(true);
    expect(t.watch.seen({ secrets: signed })).toEqual({
      'requests to authorization servers': ['assertion of a client', 'assertion of a user', 'subject of an exchange'],
      'requests to the identity provider': ['ID token'],
      'requests to upstreams': ['identity of a caller'],
    });
  }, 120_000);
});

test('a dump of the database, with the configuration but without the key, reveals none of 40 secrets; nor does any answer', async () => {
  const stored = Array.from({ length: 40 }, canaryMaker());
  const plane = await startTestControlPlane({ environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() } });
  const answers: unknown[] = [];
  const ask = async (query: string, variables: Record<string, unknown>) => {
    const answer = await plane.ask(query, variables);
    answers.push(answer);
    if (answer.errors.length > 0) throw new Error(JSON.stringify(answer.errors));
    return answer.data;
  };
  const create = 'mutation ($input: CreateServerInput!) { createServer(input: $input) { id } }';
  const set = `mutation ($input: SetServerCredentialInput!) {
    setServerCredential(input: $input) { serverId mode isComplete headerNames issuer clientId scopes revision rotatedAt }
  }`;
  for (const [at, secret] of stored.entries()) {
    const { createServer } = await ask(create, { input: { slug: `s${at}`, url: 'https://mcp.example/mcp' } });
    const mode =
      at % 2 === 0
        ? { staticHeaders: { headers: [{ name: 'X-Key', value: secret }] } }
        : { clientCredentials: { issuer: 'https://login.example', clientId: 'gateway', secret } };
    const idempotencyKey = `key-${at}`;
    await ask(set, { input: { serverId: createServer.id, idempotencyKey, ...mode } });
  }
  // What is refused must not repeat it either.
  const refused = { serverId: '0', staticHeaders: { headers: [{ name: 'Host', value: stored[0] }] } };
  answers.push(await plane.ask(set, { input: refused }));
  const audit = '{ auditEvents(first: 200) { edges { node { action before after } } } }';
  answers.push(await plane.ask(audit, {}));
  const configuration = { SALLYPORT_SECRET_KEY: 'a secret key of the tests, 32 characters and more' };
  const text = [await dump(plane.databaseUrl), JSON.stringify(answers), JSON.stringify(configuration)].join('\n');
  expect(found(text, { secrets: Object.fromEntries(stored.entries()) })).toEqual([]);
  expect(text.match(/"origin":"[^"]*","sealed":"v1\./g)?.length).toBe(40);
  await plane.stop();
});
