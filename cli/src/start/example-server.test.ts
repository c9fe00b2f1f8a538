import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ExampleServer, startExampleServer } from './example-server.ts';

let example: ExampleServer;
beforeAll(async () => {
  example = await startExampleServer({ port: 0, clock: { now: () => 0, monotonic: () => 0 } });
});
afterAll(() => example.stop());

const meta = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': { name: 'test', version: '1' },
  'io.modelcontextprotocol/clientCapabilities': {},
};

async function ask(method: string, params: Record<string, unknown> = {}): Promise<unknown> {
  const name = params['name'] ?? params['uri'];
  const response = await fetch(example.url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      'mcp-protocol-version': '2026-07-28',
      'mcp-method': method,
      ...(typeof name === 'string' ? { 'mcp-name': name } : {}),
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: { ...params, _meta: meta } }),
  });
  return response.json();
}

test('three tools, a prompt and a resource are offered', async () => {
  expect(await ask('tools/list')).toMatchObject({
    result: { tools: [{ name: 'time' }, { name: 'convert_units' }, { name: 'count_words' }] },
  });
  expect(await ask('prompts/list')).toMatchObject({ result: { prompts: [{ name: 'summarize' }] } });
  expect(await ask('resources/read', { uri: 'units://all' })).toMatchObject({
    result: { contents: [{ text: expect.stringContaining('"celsius":{"dimension":"temperature"}') }] },
  });
});

test('the time is told in the time zone asked for', async () => {
  const answer = await ask('tools/call', { name: 'time', arguments: { timeZone: 'Europe/Vienna' } });
  const text: unknown = expect.stringMatching(/1 January 1970 .*01:00:00.*\(1970-01-01T00:00:00\.000Z\)$/);
  expect(answer).toMatchObject({ result: { content: [{ type: 'text', text }] } });
});

test('a conversion answers with text and with structured content', async () => {
  const answer = await ask('tools/call', { name: 'convert_units', arguments: { value: 1, from: 'mi', to: 'km' } });
  expect(answer).toMatchObject({
    result: { content: [{ text: '1 mi = 1.609344 km' }], structuredContent: { value: 1.609344, unit: 'km' } },
  });
});

test('words are counted', async () => {
  const answer = await ask('tools/call', { name: 'count_words', arguments: { text: 'One two. Three!' } });
  expect(answer).toMatchObject({
    result: { content: [{ type: 'text', text: '3 words, 2 sentences, 15 characters' }] },
  });
});

test('a client of an older revision is told which one is spoken', async () => {
  const response = await fetch(example.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'initialize', params: {} }),
  });
  expect(response.status).toBe(400);
  expect(await response.json()).toMatchObject({ error: { data: { supported: ['2026-07-28'] } } });
});
