import { createServer } from 'node:https';
import { connect } from 'node:tls';
import { afterEach, describe, expect, test } from 'vitest';
import { createPeerIdentity } from '@sallyport/data-plane';
import { type AskingUpstream, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { type FleetOfNodes, startFleetOfNodes } from './fleet-of-nodes.ts';
import { eventsOf, legacy, modern, modernParams, send } from './requests.ts';

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function start(era: 'legacy' | 'modern', count = 3): Promise<{ upstream: AskingUpstream; fleet: FleetOfNodes }> {
  const upstream = await startAskingUpstream({ era });
  ends.push(() => upstream.stop());
  const revisions = [era === 'legacy' ? '2025-11-25' : '2026-07-28'];
  const fleet = await startFleetOfNodes(count, {
    servers: [{ slug: 's', url: upstream.url, protocolRevisions: revisions, tools: ['ask', 'count', 'hang'] }],
    grants: [{ server: 's', tools: ['*'], resources: ['*'] }],
  });
  ends.push(() => fleet.stop());
  return { upstream, fleet };
}

function call(more: object = {}) {
  const params = { name: 'ask', arguments: {}, ...more };
  const body = { jsonrpc: '2.0', id: 7, method: 'tools/call', params: modernParams(params, { elicitation: {} }) };
  return { headers: modern('tools/call', params).headers, body: JSON.stringify(body) };
}

// oxlint-disable-next-line typescript/no-explicit-any -- tests look into what came
async function answerAt(url: string, more: object = {}): Promise<any> {
  const answer = await send(url, call(more));
  return answer.json ?? eventsOf(answer.text).at(-1);
}

const accepted = { action: 'accept', content: { name: 'Ada' } };

function returnTo({ requestState, inputRequests }: { requestState: string; inputRequests: object }) {
  const inputResponses = Object.fromEntries(Object.keys(inputRequests).map((key) => [key, accepted]));
  return { requestState, inputResponses };
}

describe('a call that waits on one node', () => {
  test('is returned to by way of any other, and executed once [P71]', async () => {
    const { upstream, fleet } = await start('legacy');
    for (let round = 0; round < 6; round++) {
      const { result } = await answerAt(fleet.next('s'));
      const last = await answerAt(fleet.next('s'), returnTo(result));
      expect(last.result).toMatchObject({ resultType: 'complete', content: [{ text: JSON.stringify([accepted]) }] });
    }
    expect(upstream.executions.get('ask')).toBe(6);
    expect(upstream.toldOf('tools/call')).toHaveLength(6);
  });

  test('ends with a clear error when its node was killed, and with it no other call', async () => {
    const { upstream, fleet } = await start('legacy');
    const [first, second, third] = fleet.nodes;
    const lost = (await answerAt(first?.node.url('s') ?? '')).result;
    const kept = (await answerAt(second?.node.url('s') ?? '')).result;
    first?.kill();
    const through = third?.node.url('s') ?? '';
    expect((await answerAt(through, returnTo(lost))).error).toMatchObject({ code: 1062 });
    // The control plane no longer names it.
    fleet.introduce(fleet.nodes.slice(1));
    expect((await answerAt(through, returnTo(lost))).error).toMatchObject({ code: 1061 });
    expect((await answerAt(through, returnTo(kept))).result).toMatchObject({ resultType: 'complete' });
    expect(upstream.executions.get('ask')).toBe(1);
    expect(upstream.toldOf('tools/call')).toHaveLength(2);
  });

  test('is cancelled by a client that goes away from another node', async () => {
    const { upstream, fleet } = await start('legacy', 2);
    const [first, second] = fleet.nodes;
    const { result } = await answerAt(first?.node.url('s') ?? '');
    // The upstream takes the answers and never ends.
    upstream.holdAnswers();
    const controller = new AbortController();
    const going = send(second?.node.url('s') ?? '', { ...call(returnTo(result)), signal: controller.signal });
    await waitFor('the answers', () =>
      upstream.told.some(({ message }) => message?.method === undefined && message?.result !== undefined),
    );
    controller.abort();
    await expect(going).rejects.toThrow(/abort/i);
    await waitFor('the cancellation', () => upstream.toldOf('notifications/cancelled').length === 1);
  });
});

describe('a legacy session over three nodes', () => {
  async function openSession(fleet: FleetOfNodes): Promise<string> {
    const params = {
      protocolVersion: '2025-11-25',
      capabilities: { elicitation: {} },
      clientInfo: { name: 'i', version: '1' },
    };
    return String((await send(fleet.next('s'), legacy('initialize', params))).headers['mcp-session-id']);
  }
  const within = (session: string, url: string, sent: Parameters<typeof send>[1]) =>
    send(url, { ...sent, headers: { ...sent?.headers, 'mcp-session-id': session } });

  test('gets its answer to the node that asked, whichever it is posted to', async () => {
    const { upstream, fleet } = await start('modern');
    const session = await openSession(fleet);
    for (let round = 0; round < 3; round++) {
      let text = '';
      const calling = within(session, fleet.next('s'), {
        ...legacy('tools/call', { name: 'ask', arguments: {} }),
        onChunk: (chunk) => (text += chunk),
      });
      const question = await waitFor('the question', () => eventsOf(text)[0]);
      const body = JSON.stringify({ jsonrpc: '2.0', id: question.id, result: accepted });
      expect((await within(session, fleet.next('s'), { ...legacy(''), body })).status).toBe(202);
      expect(JSON.stringify(eventsOf((await calling).text).at(-1))).toContain('Ada');
    }
    expect(upstream.executions.get('ask')).toBe(3);
  });

  test('says to one node what all take up: level of its log, cancellation, its end [P29]', async () => {
    const { upstream, fleet } = await start('modern');
    const [first, second, third] = fleet.nodes.map(({ node }) => node.url('s'));
    const session = await openSession(fleet);
    await within(session, first ?? '', legacy('logging/setLevel', { level: 'error' }));
    const levelAtThird = async (): Promise<boolean> => {
      await within(session, third ?? '', legacy('tools/call', { name: 'count', arguments: {} }));
      const meta = upstream.toldOf('tools/call').at(-1)?.message?.params?.['_meta'];
      return (meta as Record<string, unknown>)['io.modelcontextprotocol/logLevel'] === 'error';
    };
    await waitFor('the level at another node', levelAtThird);

    const hanging = within(session, second ?? '', legacy('tools/call', { name: 'hang', arguments: {} }, 'h'));
    await waitFor('the call', () => upstream.toldOf('tools/call').at(-1)?.message?.params?.name === 'hang');
    const cancelled = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 'h' } };
    await within(session, third ?? '', { ...legacy(''), body: JSON.stringify(cancelled) });
    expect(eventsOf((await hanging).text).at(-1)?.error?.code).toBe(1060);

    expect((await within(session, first ?? '', { method: 'DELETE' })).status).toBe(200);
    await waitFor(
      'the end at another node',
      async () => (await within(session, second ?? '', legacy('ping'))).status === 404,
    );
  });
});

describe('the port for other nodes', () => {
  test('refuses whoever shows no certificate, or one that was not named', async () => {
    const { fleet } = await start('legacy', 2);
    const url = new URL(fleet.nodes[0]?.peerUrl ?? '');
    const stranger = createPeerIdentity('stranger');
    for (const own of [{}, { cert: stranger.certificatePem, key: stranger.privateKeyPem }]) {
      const answer = await new Promise<string>((resolve) => {
        const socket = connect(
          { host: url.hostname, port: Number(url.port), rejectUnauthorized: false, ...own },
          () => {
            socket.write('POST /peer/v1/notice HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}');
          },
        );
        let text = '';
        socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
        socket.once('error', () => undefined);
        socket.once('close', () => resolve(text));
      });
      expect(answer).toBe('');
    }
  });

  test('is not believed to be another node’s because it listens at its address', async () => {
    const { fleet } = await start('legacy', 2);
    const [first, second] = fleet.nodes;
    const { result } = await answerAt(first?.node.url('s') ?? '');
    const port = Number(new URL(first?.peerUrl ?? '').port);
    first?.kill();
    const impostor = createPeerIdentity('node-1');
    let asked = 0;
    const server = createServer({ cert: impostor.certificatePem, key: impostor.privateKeyPem }, () => (asked += 1));
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    ends.push(() => new Promise((resolve) => server.close(() => resolve())));
    expect((await answerAt(second?.node.url('s') ?? '', returnTo(result))).error.code).toBe(1062);
    expect(asked).toBe(0);
  });
});
