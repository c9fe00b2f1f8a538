import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { fileURLToPath } from 'node:url';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/stdio.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { CreateMessageRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type Endpoint } from '../kit/mcp-clients.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';

const main = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url));
const granted = ['test_sampling', 'test_simple_text', 'test_tool_with_progress'];
const info = { name: 'stdio-client', version: '1.0.0' };
let reference: ReferenceServer;
let harness: Harness;
let endpoint: Endpoint;

function command({ url, key }: Endpoint) {
  return {
    command: process.execPath,
    args: ['--conditions=@sallyport/source', main, 'connect', url],
    env: { SALLYPORT_API_KEY: key },
    stderr: 'pipe' as const,
  };
}

async function connectV1(to: Endpoint): Promise<ClientV1> {
  const client = new ClientV1(info, { capabilities: { sampling: {} } });
  client.setRequestHandler(CreateMessageRequestSchema, () => ({
    role: 'assistant' as const,
    model: 'none',
    content: { type: 'text' as const, text: 'sampled' },
  }));
  await client.connect(new TransportV1(command(to)) as Transport);
  return client;
}

async function connectV2(to: Endpoint): Promise<Client> {
  const client = new Client(info, { versionNegotiation: { mode: 'auto' }, capabilities: { sampling: {} } });
  client.setRequestHandler('sampling/createMessage', () => ({
    role: 'assistant' as const,
    model: 'none',
    content: { type: 'text' as const, text: 'sampled' },
  }));
  await client.connect(new StdioClientTransport(command(to)));
  return client;
}

/** Runs the connector as a program with these lines as all its input. */
async function pipe(to: Endpoint, lines: readonly unknown[]) {
  const { command: program, args, env } = command(to);
  const child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
  const output: Buffer[] = [];
  const errors: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => output.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => errors.push(chunk));
  child.stdin.end(lines.map((line) => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''));
  const [code]: unknown[] = await once(child, 'close');
  const answers = Buffer.concat(output).toString().split('\n').filter(Boolean);
  return { code, answers: answers.map((line): unknown => JSON.parse(line)), errors: Buffer.concat(errors).toString() };
}

beforeAll(async () => {
  reference = await startReferenceServer();
  harness = await startHarness({ upstreams: [reference.url] });
  const { administrator } = harness;
  const server = await administrator.registerServer('reference', reference.url);
  const client = await administrator.createClient('caller');
  await administrator.grant({
    serverId: server.id,
    subject: { kind: 'SERVICE_ACCOUNT', id: client.principalId },
    tools: granted,
  });
  await administrator.converged();
  endpoint = harness.endpoint('reference', client.key);
});
afterAll(async () => {
  await harness.stop();
  await reference.stop();
});

describe.each([
  ['the official SDK, v1, in a session', connectV1],
  ['the official SDK, v2, by 2026-07-28', connectV2],
])('through the connector, %s', (_name, connect) => {
  test('lists the granted tools, calls one, follows its progress and answers its questions', async () => {
    const client = await connect(endpoint);
    try {
      const { tools } = await client.listTools();
      expect(tools.map(({ name }) => name).sort()).toEqual(granted);
      const progress: number[] = [];
      const onprogress = (update: { readonly progress: number }): void => void progress.push(update.progress);
      const call = { name: 'test_tool_with_progress', arguments: {} };
      await (client instanceof Client
        ? client.callTool(call, { onprogress })
        : client.callTool(call, undefined, { onprogress }));
      expect(progress.length).toBeGreaterThan(1);
      const asked = await client.callTool({ name: 'test_sampling', arguments: { prompt: 'say' } });
      expect(JSON.stringify(asked.content)).toContain('sampled');
      await expect(client.callTool({ name: 'test_image_content' })).rejects.toThrow('Unknown tool');
    } finally {
      await client.close();
    }
  });
});

test('the connector answers what was piped into it before it ends', async () => {
  const initialize = {
    jsonrpc: '2.0',
    id: 'a',
    method: 'initialize',
    params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: info },
  };
  const { code, answers } = await pipe(endpoint, ['not JSON', { no: 'message' }, initialize]);
  expect(answers).toMatchObject([{ error: { code: -32700 } }, { id: 'a', result: { protocolVersion: '2025-11-25' } }]);
  expect(code).toBe(0);
});

test('the connector tells a wrong key and an endpoint that is not there by an error for each call', async () => {
  const call = { jsonrpc: '2.0', id: 1, method: 'tools/list' };
  const refused = await pipe({ ...endpoint, key: 'sp_wrong' }, [call]);
  expect(refused.answers).toMatchObject([{ id: 1, error: { message: expect.stringMatching(/\S/) } }]);
  const { code, answers } = await pipe({ ...endpoint, url: 'http://127.0.0.1:65535/mcp/none' }, [call]);
  expect(answers).toMatchObject([{ id: 1, error: { code: -32603, message: expect.stringContaining('ECONNREFUSED') } }]);
  expect(code).toBe(0);
});

test('the connector says what is missing on its command line', async () => {
  const { code, errors } = await pipe({ url: 'jira', key: 'sp_key' }, []);
  expect(errors).toContain('"jira" is not the URL of an endpoint');
  expect(code).toBe(2);
});

test('a session that the gateway forgot is begun anew, and the call that found out is made once', async () => {
  const seen: string[] = [];
  const forgetful = createServer((request, response) => void forget(request, response, seen));
  forgetful.listen(0, '127.0.0.1');
  await once(forgetful, 'listening');
  const address = forgetful.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const client = await connectV1({ url: `http://127.0.0.1:${port}/mcp`, key: 'sp_key' });
  try {
    expect(await client.listTools()).toMatchObject({ tools: [] });
    expect(seen).toEqual([
      'initialize',
      'notifications/initialized s1',
      'tools/list s1',
      'initialize',
      'notifications/initialized s2',
      'tools/list s2',
    ]);
  } finally {
    await client.close();
    forgetful.closeAllConnections();
    forgetful.close();
  }
});

/** A server whose first session ends with its first call. */
async function forget(request: IncomingMessage, response: ServerResponse, seen: string[]): Promise<void> {
  if (request.method !== 'POST') {
    response.writeHead(405).end();
    return;
  }
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  const message = JSON.parse(Buffer.concat(chunks).toString()) as { readonly id?: unknown; readonly method: string };
  const session = request.headers['mcp-session-id'];
  seen.push(typeof session === 'string' ? `${message.method} ${session}` : message.method);
  const answer = (result: unknown, headers: Record<string, string> = {}): void => {
    response.writeHead(200, { 'content-type': 'application/json', ...headers });
    response.end(JSON.stringify({ jsonrpc: '2.0', id: message.id, result }));
  };
  if (message.method === 'initialize') {
    const begun = seen.filter((one) => one === 'initialize').length;
    const result = { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: info };
    answer(result, { 'mcp-session-id': `s${begun}` });
  } else if (message.id === undefined) {
    response.writeHead(202).end();
  } else if (session === 's1') {
    response.writeHead(404, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id: message.id, error: { code: -32001, message: 'no session' } }));
  } else {
    answer({ tools: [] });
  }
}
