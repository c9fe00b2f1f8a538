import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import { type DefinitionEntry, definitionDigest, type WebhookEntry } from '@sallyport/schema';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type PipelineNode, startPipelineNode, type TestConfiguration } from './pipeline-node.ts';
import { answerWith, askingPolicy, verdictsOf, webhookEntry } from './policy-kit.ts';
import { modern, send } from './requests.ts';

interface Invoked {
  readonly name: string;
  readonly event: string;
  readonly phase: string;
  readonly payload: { readonly name?: string; readonly arguments?: { readonly note?: string } } & Record<
    string,
    unknown
  >;
}

const both = { events: ['tools/call'], phase: 'both' };
const interceptors = [
  { name: 'validator', type: 'validation', hook: both },
  { name: 'mutator', type: 'mutation', hook: both },
  { name: 'elsewhere', type: 'validation', hook: { events: ['prompts/get'], phase: 'request' } },
];
const noteSchema = { type: 'object', properties: { note: { type: 'string', maxLength: 40 } } };

let upstream: FakeUpstream;
let node: PipelineNode;
let server: Server;
let url: string;
let signatures = 0;
const invoked: Invoked[] = [];
let answer: (asked: Invoked) => Record<string, unknown>;

/** An MCP server as the SDK makes one, which offers interceptors. */
function interceptorServer(): McpServer {
  const mcp = new McpServer({ name: 'interceptors', version: '1.0.0' });
  mcp.server.setRequestHandler('interceptors/list', { params: z.looseObject({}) }, () => ({ interceptors }));
  mcp.server.setRequestHandler('interceptor/invoke', { params: z.looseObject({ name: z.string() }) }, (params) => {
    const asked = params as unknown as Invoked;
    invoked.push(asked);
    return answer(asked);
  });
  return mcp;
}

const hook = (more: Partial<WebhookEntry> = {}): WebhookEntry =>
  webhookEntry({ url, deadlineMs: 10_000, interceptor: 'validator', ...more });

function configuration(webhooks: readonly WebhookEntry[]): TestConfiguration {
  const described: DefinitionEntry = {
    kind: 'tool',
    name: 'described',
    approvedDigests: [definitionDigest({ name: 'described' })],
    state: 'approved',
    labels: null,
    inputSchemas: [JSON.stringify(noteSchema)],
  };
  return {
    servers: [{ slug: 'asked', url: upstream.url, tools: [], definitions: [described] }],
    grants: [{ server: 'asked', tools: ['*'], whenArguments: `!has(arguments.note) || arguments.note != 'denied'` }],
    policies: [askingPolicy()],
    webhooks,
  };
}

beforeAll(async () => {
  upstream = await startFakeUpstream();
  const handle = toNodeHandler(createMcpHandler(interceptorServer));
  server = createServer((request, response) => {
    if (request.headers['webhook-signature'] !== undefined) signatures += 1;
    void handle(request as IncomingMessage & { method: string; url: string }, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`;
  node = await startPipelineNode(configuration([]));
});
afterAll(async () => {
  await node.stop();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await upstream.stop();
});
beforeEach(() => {
  node.records.length = 0;
  invoked.length = 0;
  answer = () => ({ valid: true });
  answerWith(upstream, { content: [{ type: 'text', text: 'the answer' }] });
});

const ask = (values: object = { note: 'a note' }) =>
  send(node.url('asked'), modern('tools/call', { name: 'described', arguments: values }));
const use = (more: Partial<WebhookEntry> = {}): void => node.configure(configuration([hook(more)]));
const mutating = { interceptor: 'mutator', mutablePaths: ['/params/arguments', '/result/content'] };
const received = () => JSON.parse(upstream.requests.at(-1)?.body ?? '{}') as { params: { arguments: unknown } };

const verdicts = () => verdictsOf(node);

describe('an interceptor of an MCP server', () => {
  test('that validates sees request and result, signed, with who asks; its yes lets them pass', async () => {
    use();
    const before = signatures;
    expect((await ask()).json).toMatchObject({ result: {} });
    expect(invoked).toMatchObject([
      {
        name: 'validator',
        event: 'tools/call',
        phase: 'request',
        payload: { name: 'described', arguments: { note: 'a note' } },
        context: { principal: { id: 'first' } },
      },
      { name: 'validator', event: 'tools/call', phase: 'response', payload: { content: [{ text: 'the answer' }] } },
    ]);
    expect(signatures - before).toBeGreaterThanOrEqual(3);
    expect(await verdicts()).toMatchObject([{ webhookId: 'hook', decision: 'pass' }, { decision: 'pass' }]);
  });

  test.each([
    ['an error', { valid: false, severity: 'error' }, false],
    ['something invalid, without saying how badly', { valid: false }, false],
    ['a warning', { valid: false, severity: 'warn' }, true],
  ])('that finds %s blocks only for errors', async (_name, result, passes) => {
    use();
    answer = () => result;
    const { json } = await ask();
    expect(json).toMatchObject(passes ? { result: {} } : { error: { code: 1023 } });
  });

  test('that mutates changes arguments, below the paths it may, fitting the schema; and answers', async () => {
    use(mutating);
    answer = ({ phase, payload }) =>
      phase === 'request'
        ? { modified: true, payload: { ...payload, arguments: { note: 'another' } } }
        : { modified: true, payload: { ...payload, content: [{ type: 'text', text: 'changed' }] } };
    expect((await ask()).json).toMatchObject({ result: { content: [{ type: 'text', text: 'changed' }] } });
    expect(received().params.arguments).toEqual({ note: 'another' });
    expect(await verdicts()).toMatchObject([
      { decision: 'modify', places: [{ path: '/params/arguments/note' }] },
      { decision: 'modify', places: [{ path: '/result/content/0/text' }] },
    ]);
  });

  test.each([
    ['the name of the tool', 'patchForbidden', { name: 'other' }],
    ['_meta', 'patchForbidden', { _meta: {} }],
    ['what does not fit the schema', 'argumentsInvalid', { arguments: { note: 7 } }],
  ])('that mutates %s gave no verdict', async (_name, reason, change) => {
    use({ ...mutating, events: ['request'] });
    answer = ({ payload }) => ({ modified: true, payload: { ...payload, ...change } });
    const before = upstream.requests.length;
    expect((await ask()).json).toMatchObject({ error: { code: 1024 } });
    expect(upstream.requests.length).toBe(before);
    expect(await verdicts()).toMatchObject([{ reason }]);
  });

  test('that mutates into what the caller may not send is authorized again, and refused', async () => {
    use({ ...mutating, events: ['request'] });
    answer = ({ payload }) => ({ modified: true, payload: { ...payload, arguments: { note: 'denied' } } });
    const before = upstream.requests.length;
    expect((await ask()).json).toHaveProperty('error');
    expect(upstream.requests.length).toBe(before);
  });

  test.each([
    ['speaks for another', 'foreignVerdict', { valid: true, interceptor: 'other' }],
    ['answers about the other phase', 'foreignVerdict', { valid: true, phase: 'response' }],
    ['answers without a verdict', 'answerInvalid', { fine: true }],
  ])('that %s gave none: closed blocks, open passes', async (_name, reason, result) => {
    answer = () => result;
    use({ events: ['request'] });
    expect((await ask()).json).toMatchObject({ error: { code: 1024 } });
    expect(await verdicts()).toMatchObject([{ decision: 'block', reason }]);
    use({ events: ['request'], failMode: 'open' });
    expect((await ask()).json).toMatchObject({ result: {} });
  });

  test('that the server does not list, or that is asked about what it does not hook, never counts as a yes by mistake', async () => {
    use({ events: ['request'], interceptor: 'nobody' });
    expect((await ask()).json).toMatchObject({ error: { code: 1024 } });
    expect(await verdicts()).toMatchObject([{ reason: 'unknownInterceptor' }]);
    node.records.length = 0;
    use({ events: ['request'], interceptor: 'elsewhere' });
    expect((await ask()).json).toMatchObject({ result: {} });
    expect(invoked).toEqual([]);
    expect(await verdicts()).toMatchObject([{ decision: 'pass', reason: 'interceptor.notHooked' }]);
  });

  test('is not shown a number less exactly than it goes on', async () => {
    use({ events: ['request'] });
    const { body, headers } = modern('tools/call', { name: 'described', arguments: { n: 'long' } });
    const exact = await send(node.url('asked'), { headers, body: body.replace('"long"', '12345678901234567') });
    expect(exact.json).toMatchObject({ error: { code: 1024 } });
    expect(await verdicts()).toMatchObject([{ reason: 'notInspectable' }]);
  });
});
