import type { ClosedRecord } from '@sallyport/schema';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type AskingUpstream, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type PipelineNode, startPipelineNode, type TestConfiguration, type TestServer } from './pipeline-node.ts';
import { eventsOf, legacy, modern, modernParams, send } from './requests.ts';

const tools = ['count', 'ask'];
const none = { sampling: false, roots: false, elicitation: false };
let upstream: FakeUpstream;
let modernAsking: AskingUpstream;
let legacyAsking: AskingUpstream;
let node: PipelineNode;

function configuration(asks?: TestServer['asks']): TestConfiguration {
  return {
    servers: [
      { slug: 'both', url: upstream.url, tools, ...(asks && { asks }) },
      { slug: 'new', url: modernAsking.url, protocolRevisions: ['2026-07-28'], tools, ...(asks && { asks }) },
      { slug: 'old', url: legacyAsking.url, protocolRevisions: ['2025-11-25'], tools, ...(asks && { asks }) },
    ],
    grants: ['both', 'new', 'old'].map((server) => ({ server, tools: ['*'] })),
  };
}

beforeAll(async () => {
  upstream = await startFakeUpstream();
  modernAsking = await startAskingUpstream({ era: 'modern' });
  legacyAsking = await startAskingUpstream({ era: 'legacy' });
  node = await startPipelineNode(configuration());
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
  await modernAsking.stop();
  await legacyAsking.stop();
});
beforeEach(() => {
  node.records.length = 0;
  upstream.intercept(() => false);
});

const call = legacy('tools/call', { name: 'count', arguments: {} });
const question = (method: string, params: object, id: unknown = 'q1') => ({ jsonrpc: '2.0', id, method, params });
const sampling = (params: object = {}) =>
  question('sampling/createMessage', { maxTokens: 100, messages: [], ...params });
const form = (properties: object, message = 'Please answer.') =>
  question('elicitation/create', { message, requestedSchema: { type: 'object', properties } });
const link = (url: string) =>
  question('elicitation/create', { mode: 'url', message: 'Go there.', url, elicitationId: 'e' });

/** What comes of a question on the stream of a legacy call: what the client saw, and what the upstream was told. */
async function asked(asks: TestServer['asks'], ...questions: readonly object[]) {
  node.configure(configuration(asks));
  const before = upstream.requests.length;
  let isFirst = true;
  upstream.intercept((_request, response) => {
    if (!isFirst) {
      response.writeHead(202).end();
      return true;
    }
    isFirst = false;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const answer = { jsonrpc: '2.0', id: 1, result: { content: [] } };
    response.end([...questions, answer].map((message) => `data: ${JSON.stringify(message)}\n\n`).join(''));
    return true;
  });
  const { text } = await send(node.url('both'), call);
  const seen = eventsOf(text).map(({ method, id }) => method ?? id);
  const refused = questions.length - (seen.length - 1);
  const told = await waitFor('the answers to what was refused', () => {
    const posted = upstream.requests.slice(before + 1);
    return posted.length >= refused
      ? posted.map(({ body }) => JSON.parse(body) as { id: unknown; error: unknown })
      : undefined;
  });
  return { seen, told, text };
}

async function verdictReasons(): Promise<string[]> {
  const record = await waitFor('the closed record', () =>
    node.records.find((one): one is ClosedRecord => one.type === 'closed'),
  );
  return (record.verdicts ?? []).map(({ detector, reason }) => `${detector} ${reason}`);
}

describe('by default a server may ask nothing of clients', () => {
  test.each(['sampling/createMessage', 'roots/list', 'elicitation/create'])(
    '%s is answered in the client’s place, which never sees it; the call goes on',
    async (method) => {
      const { seen, told } = await asked(none, question(method, { maxTokens: 1, message: 'hi' }));
      expect(seen).toEqual([1]);
      expect(told).toEqual([{ jsonrpc: '2.0', id: 'q1', error: { code: -32601, message: expect.any(String) } }]);
      expect(await verdictReasons()).toEqual(['upstreamRequest notAllowed']);
    },
  );

  test('it is not told that its client offers anything', async () => {
    node.configure(configuration(none));
    const capabilities = {
      sampling: {},
      roots: {},
      elicitation: {},
      experimental: { kept: {} },
      extensions: { 'x.example/y': {} },
    };
    const initialize = { protocolVersion: '2025-11-25', capabilities, clientInfo: { name: 'c', version: '1' } };
    await send(node.url('both'), legacy('initialize', initialize));
    expect(JSON.parse(upstream.requests.at(-1)?.body ?? '').params.capabilities).toEqual({
      experimental: { kept: {} },
      extensions: {},
    });
    const sent = modern('tools/call', { name: 'count' });
    const params = modernParams({ name: 'count', arguments: {} }, capabilities);
    await send(node.url('both'), {
      ...sent,
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params }),
    });
    const told = JSON.parse(upstream.requests.at(-1)?.body ?? '').params._meta;
    expect(told['io.modelcontextprotocol/clientCapabilities']).toEqual({ experimental: { kept: {} }, extensions: {} });
  });

  test('an answer that asks is replaced by an error, for modern clients too', async () => {
    node.configure(configuration(none));
    for (const result of [
      {
        resultType: 'input_required',
        inputRequests: { a: { method: 'elicitation/create', params: { message: 'Who?' } } },
      },
      { resultType: 'input_required', inputRequests: { a: { method: 'something/else' } } },
      { resultType: 'input_required', inputRequests: [{ method: 'elicitation/create', params: { message: 'Who?' } }] },
    ]) {
      upstream.intercept((_request, response) => {
        response.writeHead(200, { 'content-type': 'application/json' });
        response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, result }));
        return true;
      });
      const answer = await send(node.url('both'), modern('tools/call', { name: 'count', arguments: {} }));
      expect(answer.json.error).toMatchObject({ code: 1025 });
      expect(answer.text).not.toContain('Who?');
    }
  });

  test.each(['url', 'form'])('an error that sends people somewhere is replaced, in mode %s', async (mode) => {
    const all = { sampling: true, roots: true, elicitation: true };
    node.configure(configuration(mode === 'url' ? none : all));
    upstream.intercept((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      const data = { elicitations: [{ mode, url: 'https://evil.example/', elicitationId: 'e', message: 'm' }] };
      response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, error: { code: -32042, message: 'first', data } }));
      return true;
    });
    const answer = await send(node.url('both'), call);
    expect(answer.json.error).toMatchObject({ code: 1025 });
    expect(answer.text).not.toContain('evil.example');
  });

  test('over both bridges', async () => {
    node.configure(configuration(none));
    const sent = modern('tools/call', { name: 'ask' });
    const params = modernParams({ name: 'ask', arguments: {} }, { elicitation: {} });
    const parked = await send(node.url('old'), {
      ...sent,
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params }),
    });
    expect(parked.text).not.toContain('inputRequests');
    expect(legacyAsking.toldOf('initialize').at(-1)?.body).not.toContain('elicitation');
    const initialize = {
      protocolVersion: '2025-11-25',
      capabilities: { elicitation: {} },
      clientInfo: { name: 'c', version: '1' },
    };
    const opened = await send(node.url('new'), legacy('initialize', initialize));
    const headers = {
      'mcp-protocol-version': '2025-11-25',
      'mcp-session-id': String(opened.headers['mcp-session-id']),
    };
    const asking = await send(node.url('new'), { ...legacy('tools/call', { name: 'ask', arguments: {} }), headers });
    expect(asking.text).not.toContain('Your name?');
    expect(modernAsking.toldOf('tools/call').at(-1)?.body).not.toContain('elicitation');
  });
});

describe('what is allowed has bounds', () => {
  const all = { sampling: true, roots: true, elicitation: true };
  test.each<[string, TestServer['asks'], object, string | null]>([
    ['sampling within its tokens', all, sampling(), null],
    ['sampling beyond its tokens', { ...all, samplingTokensMax: 99 }, sampling(), 'tooManyTokens'],
    ['sampling without a bound', all, sampling({ maxTokens: undefined }), 'tooManyTokens'],
    ['one kind does not open another', { ...none, roots: true }, sampling(), 'notAllowed'],
    ['a question within its size', all, form({ name: { type: 'string' } }), null],
    ['a question beyond its size', { ...all, bytesMax: 50 }, form({ name: { type: 'string' } }), 'tooLarge'],
    ['a page of its own', all, link('http://127.0.0.1:9999/login'), null],
    ['a page of another host', all, link('https://login.example.com/'), 'foreignAddress'],
    [
      'a page of a named host',
      { ...all, elicitationHosts: ['login.example.com'] },
      link('https://login.example.com/'),
      null,
    ],
    [
      'a page of a named host in clear',
      { ...all, elicitationHosts: ['login.example.com'] },
      link('http://login.example.com/'),
      'foreignAddress',
    ],
    [
      'a page of a host that ends alike',
      { ...all, elicitationHosts: ['example.com'] },
      link('https://evilexample.com/'),
      'foreignAddress',
    ],
    ['a page with a user in it', all, link('https://127.0.0.1@evil.example/'), 'foreignAddress'],
    ['no page at all', all, link('javascript:alert(1)'), 'foreignAddress'],
    [
      'a page of another host in what says to be a form',
      all,
      question('elicitation/create', { mode: 'form', message: 'm', url: 'https://login.example.com/' }),
      'foreignAddress',
    ],
    ['a request that nobody knows', all, question('vendor/ask', { message: 'm' }), 'notAllowed'],
    ['a mode nobody knows', all, question('elicitation/create', { mode: 'voice', message: 'm' }), 'unknownMode'],
  ])('%s', async (_name, asks, message, reason) => {
    const { seen } = await asked(asks, message);
    expect(seen.length).toBe(reason === null ? 2 : 1);
    expect(await verdictReasons()).toEqual(reason === null ? [] : [`upstreamRequest ${reason}`]);
  });

  test('so many questions of one exchange and no more', async () => {
    const questions = ['a', 'b', 'c', 'd'].map((id) => question('roots/list', {}, id));
    const { seen, told } = await asked({ ...all, perExchangeMax: 2 }, ...questions);
    expect(seen).toEqual(['roots/list', 'roots/list', 1]);
    expect(told.map(({ id }) => String(id)).sort()).toEqual(['c', 'd']);
  });

  test('what other servers said is not asked for', async () => {
    const { text } = await asked(all, sampling({ includeContext: 'allServers' }));
    expect(text).toContain('"includeContext":"none"');
    expect(text).not.toContain('allServers');
  });
});

describe('a form does not ask for secrets', () => {
  const all = { sampling: true, roots: true, elicitation: true };
  const field = (more: object = {}) => ({ type: 'string', ...more });
  test.each<[string, object]>([
    ['by the name of a field', form({ password: field() })],
    ['by a name in camel case', form({ userApiKey: field() })],
    ['by a name with underscores', form({ access_token: field() })],
    ['by a title', form({ a: field({ title: 'Your PIN' }) })],
    ['by a description', form({ a: field({ description: 'The one-time code from your phone' }) })],
    ['by a format', form({ a: field({ format: 'password' }) })],
    ['by full-width letters', form({ a: field({ title: '\uff30\uff21\uff33\uff33\uff37\uff2f\uff32\uff24' }) })],
    ['by its message', form({ value: field() }, 'To go on, please enter your password.')],
    ['by a number as long as a PIN', form({ a: { type: 'integer', title: 'PIN', minimum: 0, maximum: 9_999 } })],
    ['by a card number', form({ a: field({ title: 'Credit card number' }) })],
    ['by look-alike letters', form({ a: field({ title: 'Your \u0440\u0430\u0455sw\u043erd' }) })],
    ['by look-alike letters alone', form({ a: field({ title: '\u0440\u0456\u043f' }) })],
    ['by hidden characters', form({ ['pass\u200bw\u{e0061}ord']: field() })],
    ['by digits for letters', form({ a: field({ title: 'Enter p4ssw0rd' }) })],
    ['by letters set apart', form({ a: field({ title: 'p a s s w o r d' }) })],
    ['by letters set apart in a name', form({ p_i_n: field() })],
    ['by an encoding', form({ a: field({ title: '&#112;assword' }) })],
    ['by two words of one', form({ passWord: field() })],
    ['in Spanish', form({ a: field({ title: 'Contrase\u00f1as' }) })],
    ['in Spanish, taken apart', form({ a: field({ title: 'Contrasen\u0303a' }) })],
    ['in German, joined', form({ a: field({ title: 'Benutzerpasswort' }) })],
    [
      'in Russian, inflected',
      form(
        { a: field() },
        '\u0412\u0432\u0435\u0434\u0438\u0442\u0435 \u0441\u0432\u043e\u0439 \u043f\u0430\u0440\u043e\u043b\u044c',
      ),
    ],
    ['in Chinese', form({ a: field({ title: '\u8acb\u8f38\u5165\u5bc6\u78bc' }) })],
    ['in Japanese, half-width', form({ a: field({ title: '\uff8a\uff9f\uff7d\uff9c\uff70\uff84\uff9e' }) })],
    ['in Korean, inflected', form({ a: field({ title: '\ube44\ubc00\ubc88\ud638\ub97c' }) })],
    ['in French, by its message', form({ a: field() }, 'Veuillez saisir votre mot de passe pour continuer la session')],
    [
      'by digits in fields of their own',
      form({
        pin1: { type: 'integer', minimum: 0, maximum: 9 },
        pin2: { type: 'integer', minimum: 0, maximum: 9 },
        pin3: { type: 'integer', minimum: 0, maximum: 9 },
        pin4: { type: 'integer', minimum: 0, maximum: 9 },
      }),
    ],
    ['by its message, for a number', form({ value: { type: 'integer' } }, 'Please enter your PIN.')],
    [
      'by what the form as a whole is called',
      question('elicitation/create', {
        message: 'Please answer.',
        requestedSchema: { type: 'object', title: 'Your password', properties: { value: field() } },
      }),
    ],
    ['by a note of a field that few clients show', form({ a: field({ 'x-placeholder': 'Password' }) })],
    [
      'by a field from elsewhere in the schema',
      question('elicitation/create', {
        message: 'Please answer.',
        requestedSchema: { type: 'object', properties: {}, allOf: [{ properties: { password: field() } }] },
      }),
    ],
  ])('%s', async (_name, message) => {
    expect((await asked(all, message)).seen).toEqual([1]);
    expect(await verdictReasons()).toEqual(['upstreamRequest asksForSecret']);
  });

  test.each<[string, object]>([
    ['a name', form({ name: field({ title: 'Your name' }), age: { type: 'number' } }, 'Please tell us who you are.')],
    ['a choice about tokens', form({ ok: { type: 'boolean' } }, 'Your token has expired. Renew it?')],
    [
      'what no secret fits into',
      form({ n: { type: 'integer', description: 'No phone number, pin or the like', minimum: 1, maximum: 100 } }),
    ],
    [
      'words that only contain such words',
      form({ passenger: field(), compass: field(), keyboard: field(), spinner: field(), passage: field() }),
    ],
    ['a choice between kinds of tokens', form({ kind: field({ title: 'Kind of token', enum: ['read', 'write'] }) })],
    ['notes on a card', form({ discardNotes: field({ title: 'Discard notes' }), wildcard: field() })],
    [
      'words of other languages',
      form({ parola: field({ title: 'Inserisci una parola' }), clave: field({ title: 'Palabra clave' }) }),
    ],
    [
      'what to do about a password',
      form(
        { name: field({ title: 'Your name' }) },
        'The password of this database was changed by an administrator yesterday, and all that uses it fails.',
      ),
    ],
  ])('and may ask for %s', async (_name, message) => {
    expect((await asked(all, message)).seen.length).toBe(2);
  });
});
