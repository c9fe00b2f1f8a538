import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { z } from 'zod';
import { approvedAs, type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { eventsOf, legacy, modern, send } from './requests.ts';

const work = { name: 'work', inputSchema: { type: 'object' } };
const messageSchema = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  method: z.string().optional(),
  params: z.looseObject({ requestState: z.string().optional() }).optional(),
});
type Message = z.infer<typeof messageSchema>;
type Serve = (asked: { readonly http: string; readonly message: Message }, response: ServerResponse) => void;

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

async function readMessage(incoming: IncomingMessage): Promise<Message> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(Buffer.from(chunk as Uint8Array));
  return chunks.length === 0 ? {} : messageSchema.parse(JSON.parse(Buffer.concat(chunks).toString()));
}

/** A node in front of a server that is called with a credential, of which there is always a fresh one. */
async function nodeBefore(revision: string, serve: Serve): Promise<PipelineNode> {
  const server = createServer((incoming, response) => {
    readMessage(incoming)
      .then((message) => serve({ http: incoming.method ?? '', message }, response))
      .catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const origin = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
  let lent = 0;
  const node = await startPipelineNode({
    servers: [
      {
        slug: 'guarded',
        url: `${origin}/mcp`,
        protocolRevisions: [revision],
        definitions: approvedAs('tool', [work]),
        credential: { mode: 'clientCredentials', revision: 1 },
      },
    ],
    grants: [{ server: 'guarded', tools: ['*'] }],
    lend: ({ serverId }) => {
      const headers: [string, string][] = [['authorization', `Bearer fresh-${++lent}`]];
      const whose = { id: 'stored', serverId, principalId: null, issuer: null, resource: null, revision: 1 };
      return Promise.resolve({ ok: true, credential: { ...whose, origin, headers, expiresAt: null, renewable: true } });
    },
  });
  stops.push(async () => {
    await node.stop();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return node;
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

const initialized = {
  protocolVersion: '2025-11-25',
  capabilities: { tools: {} },
  serverInfo: { name: 'guarded', version: '1' },
};

/** The server of a legacy session, but for its tool. */
function legacyServer(call: Serve, others: Serve): Serve {
  return (asked, response) => {
    const { http, message } = asked;
    if (message.method === 'initialize') json(response, 200, { jsonrpc: '2.0', id: message.id, result: initialized });
    else if (message.method === 'tools/call') call(asked, response);
    else if (http === 'POST' && message.method !== undefined) response.writeHead(202).end();
    else others(asked, response);
  };
}

test('a call that a legacy server took is not made again where it refuses the credential of an answer [P71]', async () => {
  let executed = 0;
  const node = await nodeBefore(
    '2025-11-25',
    legacyServer(
      (_asked, response) => {
        executed++;
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write('data: {"jsonrpc":"2.0","id":"alive","method":"ping"}\n\n');
      },
      ({ http }, response) => void response.writeHead(http === 'POST' ? 401 : 405).end(),
    ),
  );
  const answer = await send(node.url('guarded'), modern('tools/call', { name: 'work', arguments: {} }));
  expect(answer.json.error.code).toBeDefined();
  expect(executed).toBe(1);
});

test('nor where it refuses the credential with which the answer is taken up again [P71]', async () => {
  let executed = 0;
  const node = await nodeBefore(
    '2025-11-25',
    legacyServer(
      (_asked, response) => {
        executed++;
        response.writeHead(200, { 'content-type': 'text/event-stream' }).end('id: e1\nretry: 1\ndata:\n\n');
      },
      (_asked, response) => void response.writeHead(401).end(),
    ),
  );
  const answer = await send(node.url('guarded'), modern('tools/call', { name: 'work', arguments: {} }));
  expect(answer.json.error.code).toBeDefined();
  expect(executed).toBe(1);
});

test('nor where a modern server that began it refuses the credential of the next round [P71]', async () => {
  let begun = 0;
  const node = await nodeBefore('2026-07-28', ({ message: { id, method, params } }, response) => {
    const answered = (result: object): void => json(response, 200, { jsonrpc: '2.0', id, result });
    if (method === 'server/discover') {
      answered({ resultType: 'complete', supportedVersions: ['2026-07-28'], capabilities: { tools: {} } });
    } else if (params?.requestState === undefined) {
      begun++;
      answered({ resultType: 'input_required', requestState: 'begun' });
    } else response.writeHead(401).end();
  });
  const clientInfo = { name: 'old', version: '1' };
  const opening = legacy('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo });
  const session = String((await send(node.url('guarded'), opening)).headers['mcp-session-id']);
  const sent = legacy('tools/call', { name: 'work', arguments: {} });
  const answer = await send(node.url('guarded'), { ...sent, headers: { ...sent.headers, 'mcp-session-id': session } });
  expect((answer.json ?? eventsOf(answer.text).at(-1)).error.code).toBeDefined();
  expect(begun).toBe(1);
});
