import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type FakeUpstream, fakeTools, startFakeUpstream } from './fake-upstream.ts';

let upstream: FakeUpstream;
beforeAll(async () => {
  upstream = await startFakeUpstream();
});
afterAll(() => upstream.stop());

const info = { name: 'test', version: '1' };
const text = (value: string) => ({ content: [{ type: 'text', text: value }] });

describe('the fake upstream', () => {
  test('serves a modern client of the official SDK and counts its calls', async () => {
    const client = new Client(info, { versionNegotiation: { mode: 'auto' } });
    await client.connect(new StreamableHTTPClientTransport(new URL(upstream.url)));
    expect(client.getNegotiatedProtocolVersion()).toBe('2026-07-28');
    const { tools } = await client.listTools();
    expect(tools.map(({ name }) => name)).toEqual(fakeTools);
    const answer = await client.callTool({ name: 'count', arguments: { id: 'modern' } });
    expect(answer).toMatchObject(text('executed modern'));
    expect(upstream.executions.get('modern')).toBe(1);
    await client.close();
  });

  test('serves a legacy client of the official SDK, also by events', async () => {
    const client = new ClientV1(info);
    // The transport's optional members are typed without `exactOptionalPropertyTypes`.
    await client.connect(new TransportV1(new URL(upstream.url)) as Transport);
    const answer = await client.callTool({ name: 'stream', arguments: { events: 2 } });
    expect(answer).toMatchObject(text('streamed'));
    await client.close();
  });
});
