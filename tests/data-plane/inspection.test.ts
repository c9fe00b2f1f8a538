import type { DetectionResult, PolicyAction, PolicyEntry } from '@sallyport/schema';
import { policyMatchDefaults } from '@sallyport/schema';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type AskingUpstream, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { otherKey, type PipelineNode, startPipelineNode, type TestConfiguration } from './pipeline-node.ts';
import { answerWith, endOfExchange, policyEntry, streamWith, verdictsOf } from './policy-kit.ts';
import { eventsOf, legacy, modern, modernParams, send } from './requests.ts';

// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');
const tools = ['count', 'other'];
const revisions = ['2026-07-28', '2025-11-25'];

let upstream: FakeUpstream;
let modernUpstream: AskingUpstream;
let legacyUpstream: AskingUpstream;
let node: PipelineNode;
let pool: { detect: () => Promise<DetectionResult> } | undefined;

const secrets = (action: PolicyAction, more: Partial<PolicyEntry> = {}): PolicyEntry =>
  policyEntry({
    id: `secrets-${action}`,
    rules: [{ detector: 'secret', action, severityMin: null, categories: [] }],
    ...more,
  });

function configuration(policies: readonly PolicyEntry[], more: Partial<TestConfiguration> = {}): TestConfiguration {
  const labels = { tier: 'one' };
  return {
    servers: [
      { slug: 'both', url: upstream.url, tools, prompts: ['p'], labels, protocolRevisions: revisions },
      { slug: 'new', url: modernUpstream.url, protocolRevisions: ['2026-07-28'], tools },
      { slug: 'old', url: legacyUpstream.url, protocolRevisions: ['2025-11-25'], tools },
    ],
    grants: ['both', 'new', 'old'].map((server) => ({ server, tools: ['*'], prompts: ['*'], resources: ['*'] })),
    policies,
    ...more,
  };
}

beforeAll(async () => {
  upstream = await startFakeUpstream();
  modernUpstream = await startAskingUpstream({ era: 'modern' });
  legacyUpstream = await startAskingUpstream({ era: 'legacy' });
  const detectorPool = { detect: () => pool?.detect() ?? Promise.reject(new Error('no thread in this test')) };
  node = await startPipelineNode(configuration([], { detectorPool }));
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
  await modernUpstream.stop();
  await legacyUpstream.stop();
});
beforeEach(() => {
  pool = undefined;
  node.records.length = 0;
  upstream.intercept(() => false);
});

function use(...policies: readonly PolicyEntry[]): void {
  node.configure(configuration(policies));
}

const answering = (result: object, status?: number): void => answerWith(upstream, result, status);
const streaming = (...messages: readonly object[]): void => streamWith(upstream, messages);
const ended = () => endOfExchange(node);
const verdicts = () => verdictsOf(node);

const call = (values: object, name = 'count') => modern('tools/call', { name, arguments: values });
const text = (value: string) => ({ content: [{ type: 'text', text: value }] });

describe.each([
  ['modern', (values: object) => call(values)],
  ['legacy', (values: object) => legacy('tools/call', { name: 'count', arguments: values })],
] as const)('a %s client', (_era, calling) => {
  test('whose request is blocked gets an error that does not tell what was found, and nothing is sent', async () => {
    use(secrets('block'));
    const before = upstream.requests.length;
    const answer = await send(node.url('both'), calling({ note: `my ${token}` }));
    expect(answer.status).toBe(200);
    expect(answer.json).toMatchObject({
      jsonrpc: '2.0',
      id: 1,
      error: { code: 1023, data: { detectors: ['secret'] } },
    });
    expect(answer.text).not.toContain(token);
    expect(upstream.requests.length).toBe(before);
    const record = await ended();
    expect(record).toMatchObject({ type: 'refused', outcome: 'refused', errorCode: 'BLOCKED_BY_POLICY' });
    expect(record.verdicts).toMatchObject([
      {
        policyId: 'secrets-block',
        direction: 'request',
        detector: 'secret',
        decision: 'block',
        reason: 'githubToken',
        places: [{ path: '/params/arguments/note', start: 3, end: 43 }],
      },
    ]);
    expect(JSON.stringify(node.records)).not.toContain(token);
  });

  test('has secrets taken out of its arguments, and of nothing else', async () => {
    use(secrets('redact'));
    const answer = await send(
      node.url('both'),
      calling({ id: 'r1', note: `my ${token}`, n: 1.5, big: 12345678901234 }),
    );
    expect(answer.json.result).toBeDefined();
    const sent = JSON.parse(upstream.requests.at(-1)?.body ?? '').params.arguments;
    expect(sent).toEqual({ id: 'r1', note: 'my [redacted githubToken]', n: 1.5, big: 12345678901234 });
    expect((await verdicts())[0]).toMatchObject({ decision: 'redact' });
  });

  test('gets an error in place of an answer that is blocked', async () => {
    use(secrets('block'));
    answering(text(`here: ${token}`));
    const answer = await send(node.url('both'), calling({}));
    expect(answer.json).toMatchObject({ id: 1, error: { code: 1023 } });
    expect(answer.text).not.toContain(token);
    expect(await ended()).toMatchObject({ type: 'closed', outcome: 'refused', errorCode: 'BLOCKED_BY_POLICY' });
    expect((await verdicts())[0]).toMatchObject({
      direction: 'response',
      places: [{ path: '/result/content/0/text' }],
    });
  });

  test('gets answers with secrets taken out', async () => {
    use(secrets('redact'));
    answering({ ...text(`here: ${token}`), structuredContent: { n: 1, key: token } });
    const answer = await send(node.url('both'), calling({}));
    expect(answer.json.result).toMatchObject({
      content: [{ type: 'text', text: 'here: [redacted githubToken]' }],
      structuredContent: { n: 1, key: '[redacted githubToken]' },
    });
  });
});

test('a header that mirrors a redacted argument says what the argument says', async () => {
  use(secrets('redact'));
  const { body, headers } = call({ region: token });
  await send(node.url('both'), { body, headers: { ...headers, 'mcp-param-region': token, 'mcp-param-zone': 'eu' } });
  const sent = upstream.requests.at(-1);
  expect(sent?.headers['mcp-param-region']).toBe('[redacted githubToken]');
  expect(sent?.headers['mcp-param-zone']).toBe('eu');
  expect(JSON.parse(sent?.body ?? '').params.arguments.region).toBe('[redacted githubToken]');
});

test('a secret in what is called is blocked, and the record does not name it', async () => {
  use(secrets('redact'));
  const answer = await send(node.url('both'), modern('resources/read', { uri: `https://x.example/?key=${token}` }));
  expect(answer.json.error).toMatchObject({ code: 1023 });
  expect(await ended()).toMatchObject({ target: { kind: 'resource', name: '[redacted githubToken]' } });
  expect(JSON.stringify(node.records)).not.toContain(token);
});

test('bytes go on as they came where nothing is found, and where no policy is about the exchange', async () => {
  const body =
    '{"jsonrpc":"2.0","id":"\\u0041" ,"method":"tools/call","params":' +
    `${JSON.stringify({ name: 'count', arguments: { n: 1 } }).replace('1', '1.0e2')}}`;
  for (const policies of [
    [secrets('block')],
    [secrets('block', { match: { ...policyMatchDefaults, tools: ['other'] } })],
  ]) {
    use(...policies);
    await send(node.url('both'), { ...legacy(''), body });
    expect(upstream.requests.at(-1)?.body).toBe(body);
  }
});

test('no detector runs for an exchange that no policy is about', async () => {
  use(secrets('block', { match: { ...policyMatchDefaults, serverLabels: { tier: 'two' } } }));
  node.detected.length = 0;
  await send(node.url('both'), call({ note: token }));
  expect(node.detected).toEqual([]);
  expect((await ended()).verdicts).toBeNull();
});

describe('a policy is about', () => {
  const about = async (
    match: Partial<PolicyEntry['match']>,
    sent = call({ note: token }),
    slug = 'both',
    key?: string,
  ) => {
    use(secrets('block', { match: { ...policyMatchDefaults, ...match } }));
    const authorization = key === undefined ? {} : { authorization: `Bearer ${key}` };
    const answer = await send(node.url(slug), { ...sent, headers: { ...sent.headers, ...authorization } });
    return answer.json.error?.code === 1023;
  };
  test.each<[string, Partial<PolicyEntry['match']>, boolean]>([
    ['everything, where it says nothing', {}, true],
    ['servers by id', { serverIds: ['server-both'] }, true],
    ['other servers by id', { serverIds: ['server-new'] }, false],
    ['servers by label', { serverLabels: { tier: 'one' } }, true],
    ['tools by glob', { tools: ['cou*'] }, true],
    ['other tools', { tools: ['oth*'] }, false],
    ['prompts alone', { prompts: ['*'] }, false],
    ['requests', { directions: ['request'] }, true],
    ['answers', { directions: ['response'] }, false],
    ['principals', { principalIds: ['first'] }, true],
    ['other principals', { principalIds: ['another'] }, false],
    ['groups', { groupIds: ['nobody'] }, false],
    ['tools of a risk nobody judged', { riskMin: 'critical' }, true],
  ])('%s', async (_name, match, is) => {
    expect(await about(match)).toBe(is);
  });

  test('one principal and not another', async () => {
    expect(await about({ principalIds: ['first'] }, call({ note: token }), 'both', otherKey)).toBe(false);
  });
});

test('a policy in shadow only records, and none is there once it is off', async () => {
  use(secrets('block', { mode: 'shadow' }));
  const answer = await send(node.url('both'), call({ note: token }));
  expect(answer.json.result).toBeDefined();
  expect(upstream.requests.at(-1)?.body).toContain(token);
  expect((await verdicts())[0]).toMatchObject({ mode: 'shadow', decision: 'block' });
  use();
  node.records.length = 0;
  await send(node.url('both'), call({ note: token }));
  expect((await ended()).verdicts).toBeNull();
});

test('a label goes into _meta of the result and the record', async () => {
  use(secrets('label'));
  answering({ ...text(token), _meta: { 'x.example/a': 1 } });
  const answer = await send(node.url('both'), call({}));
  expect(answer.json.result).toMatchObject({
    _meta: { 'x.example/a': 1, 'io.sallyport/labels': ['secret'] },
    content: [{ text: token }],
  });
  expect((await verdicts())[0]).toMatchObject({ decision: 'label' });
});

describe('on a stream', () => {
  const progress = (message: string) => ({
    method: 'notifications/progress',
    params: { progressToken: 1, progress: 1, message },
  });

  test('an event that is blocked is not delivered, and what comes after it is', async () => {
    use(secrets('block'));
    streaming(progress('one'), progress(`two ${token}`), progress('three'), {
      id: 1,
      result: { resultType: 'complete', content: [] },
    });
    const answer = await send(node.url('both'), call({}));
    expect(answer.text).not.toContain(token);
    const seen = eventsOf(answer.text).map((event) => (event as { params?: { message: string } }).params?.message);
    expect(seen).toEqual(['one', 'three', undefined]);
  });

  test('an answer that is blocked is replaced by an error', async () => {
    use(secrets('block'));
    streaming(progress('one'), { id: 1, result: { resultType: 'complete', ...text(token) } });
    const answer = await send(node.url('both'), call({}));
    expect(eventsOf(answer.text).at(-1)).toMatchObject({ id: 1, error: { code: 1023 } });
    expect(answer.text).not.toContain(token);
    expect(await ended()).toMatchObject({ outcome: 'refused', errorCode: 'BLOCKED_BY_POLICY' });
  });

  test('what is split over events is found like what is not', async () => {
    use(secrets('block'));
    streaming(progress(`see ${token.slice(0, 15)}`), progress(token.slice(15, 25)), {
      id: 1,
      result: { resultType: 'complete', ...text(token.slice(25)) },
    });
    const answer = await send(node.url('both'), call({}));
    expect(eventsOf(answer.text).at(-1)).toMatchObject({ error: { code: 1023 } });
    expect(answer.text).not.toContain(token.slice(25));
  });
});

describe.each([
  ['modern clients at a legacy server', 'old', () => call({ note: token })],
  ['modern clients at a modern server', 'new', () => call({ note: token })],
] as const)('%s', (_name, slug, calling) => {
  test('have their requests blocked before anything is sent, and redacted', async () => {
    const server = slug === 'old' ? legacyUpstream : modernUpstream;
    use(secrets('block'));
    expect((await send(node.url(slug), calling())).json.error.code).toBe(1023);
    expect(server.toldOf('tools/call')).toEqual([]);
    use(secrets('redact'));
    expect((await send(node.url(slug), calling())).json.result).toBeDefined();
    expect(server.toldOf('tools/call').at(-1)?.body).toContain('[redacted githubToken]');
  });
});

test('legacy clients at a modern server have their requests redacted on the way over the bridge', async () => {
  use(secrets('redact'));
  const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'ide', version: '2' } };
  const opened = await send(node.url('new'), legacy('initialize', params));
  const session = { 'mcp-session-id': String(opened.headers['mcp-session-id']) };
  const sent = legacy('tools/call', { name: 'count', arguments: { note: token } });
  expect(
    (await send(node.url('new'), { ...sent, headers: { ...sent.headers, ...session } })).json.result,
  ).toBeDefined();
  expect(modernUpstream.toldOf('tools/call').at(-1)?.body).toContain('[redacted githubToken]');
});

describe('a long text', () => {
  const long = { note: `${'word '.repeat(5_000)}${token}` };

  test('is looked at in a thread', async () => {
    const own = await startPipelineNode(configuration([secrets('redact')]));
    try {
      await send(own.url('both'), call(long));
      expect(upstream.requests.at(-1)?.body).toContain('word [redacted githubToken]');
    } finally {
      await own.stop();
    }
  });

  test('is blocked where the thread fails, unless the policy only looks', async () => {
    use(secrets('label'));
    const answer = await send(node.url('both'), call(long));
    expect(answer.json.error).toMatchObject({ code: 1024 });
    expect((await verdicts())[0]).toMatchObject({ detector: 'failure', decision: 'block' });
    use(secrets('block', { mode: 'shadow' }));
    expect((await send(node.url('both'), call(long))).json.result).toBeDefined();
  });

  test('of an event holds back those after it, so that the order stays', async () => {
    use(secrets('block'));
    const looked = Promise.withResolvers<DetectionResult>();
    pool = { detect: () => looked.promise };
    streaming(
      { method: 'notifications/message', params: { level: 'info', data: long.note } },
      { id: 1, result: { resultType: 'complete', ...text('last') } },
    );
    const answer = send(node.url('both'), call({}));
    await waitFor('the upstream was asked', () => upstream.requests.at(-1)?.body.includes('"count"'));
    looked.resolve({ findings: [], durations: {} });
    expect(eventsOf((await answer).text).map(({ id, method }) => method ?? id)).toEqual(['notifications/message', 1]);
  });

  test('beyond what the policy looks at has the outcome that it sets', async () => {
    use(secrets('block', { inspectedLengthMax: 4_096 }));
    expect((await send(node.url('both'), call(long))).json.error).toMatchObject({
      code: 1023,
      data: { detectors: ['size'] },
    });
    use(secrets('block', { inspectedLengthMax: 4_096, onTooLarge: 'allow' }));
    node.records.length = 0;
    expect((await send(node.url('both'), call(long))).json.result).toBeDefined();
    expect((await verdicts())[0]).toMatchObject({ detector: 'size', decision: 'allow', reason: 'tooLarge' });
  });
});

test('a response that is no text is blocked', async () => {
  use(secrets('block'));
  upstream.intercept((_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(
      Buffer.concat([Buffer.from('{"jsonrpc":"2.0","id":1,"result":{"a":"'), Buffer.from([0xff]), Buffer.from('"}}')]),
    );
    return true;
  });
  const answer = await send(node.url('both'), call({}));
  expect(answer.json.error).toMatchObject({ code: 1023, data: { detectors: ['size'] } });
});

test('a changed call is decided again, by its new arguments', async () => {
  const condition = 'arguments.note.startsWith("my ghp")';
  node.configure(
    configuration([secrets('redact')], { grants: [{ server: 'both', tools: ['*'], whenArguments: condition }] }),
  );
  const before = upstream.requests.length;
  const refused = await send(node.url('both'), call({ note: `my ${token}` }));
  expect(refused.json.error).toBeDefined();
  expect(upstream.requests.length).toBe(before);
});

test('policies of a newer configuration hold for what the answer brings', async () => {
  use();
  const arrived = Promise.withResolvers<() => void>();
  upstream.intercept((_request, response) => {
    arrived.resolve(() => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, result: { resultType: 'complete', ...text(token) } }));
    });
    return true;
  });
  const answer = send(node.url('both'), call({}));
  const finish = await arrived.promise;
  use(secrets('block'));
  finish();
  expect((await answer).json.error).toMatchObject({ code: 1023 });
});

test('what a client answers to a server is inspected like any request', async () => {
  use(secrets('block'));
  const before = upstream.requests.length;
  const response = { jsonrpc: '2.0', id: 'q', result: { action: 'accept', content: { name: token } } };
  const answer = await send(node.url('both'), { ...legacy(''), body: JSON.stringify(response) });
  expect(answer.status).toBeGreaterThanOrEqual(400);
  expect(upstream.requests.length).toBe(before);
  const retried = modern('tools/call', { name: 'count', arguments: {}, inputResponses: { q: response.result } });
  expect((await send(node.url('both'), retried)).json.error).toMatchObject({ code: 1023 });
});

test('capabilities in _meta do not keep a request from being inspected', async () => {
  use(secrets('block'));
  const sent = modern('tools/call', { name: 'count' });
  const params = { ...modernParams({ name: 'count', arguments: { a: token } }, { sampling: {} }) };
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params });
  expect((await send(node.url('both'), { ...sent, body })).json.error).toMatchObject({ code: 1023 });
});
