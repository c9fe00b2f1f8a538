import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { otherKey, type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { modern, send } from './requests.ts';

const listens = 1_000;
let upstream: FakeUpstream;
let node: PipelineNode;

beforeAll(async () => {
  upstream = await startFakeUpstream();
  upstream.intercept(({ body }, response) => {
    const isListen = body.includes('"subscriptions/listen"');
    response.writeHead(200, { 'content-type': isListen ? 'text/event-stream' : 'application/json' });
    if (isListen) response.write(': open\n\n');
    else response.end('{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[]}}');
    return true;
  });
  node = await startPipelineNode({
    servers: [{ slug: 'open', url: upstream.url, tools: fakeTools }],
    grants: [{ server: 'open', tools: ['*'] }],
    // Half of each is for streams.
    limits: { exchangesPerPrincipalMax: 2 * listens, exchangesPerServerMax: 2 * listens + 2 },
    exchangesMax: 4 * listens,
    egress: { connectionsPerOriginMax: 4 * listens },
    listener: { connectionsMax: 2 * listens },
    keepRecords: false,
  });
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});

const listen = modern('subscriptions/listen', { notifications: { toolsListChanged: true } });
const call = modern('tools/call', { name: 'count', arguments: {} });
const asOther = <T extends { readonly headers: object }>(sent: T): T => ({
  ...sent,
  headers: { ...sent.headers, authorization: `Bearer ${otherKey}` },
});

test('a thousand listens of one principal keep out neither his calls nor those of others, and one more is an error [P69]', async () => {
  const stop = new AbortController();
  let open = 0;
  const hear = (sent: typeof listen) => {
    let isOpen = false;
    const onChunk = (): void => {
      if (!isOpen) open++;
      isOpen = true;
    };
    return send(node.url('open'), { ...sent, signal: stop.signal, onChunk }).catch(() => undefined);
  };
  const held = Array.from({ length: listens }, () => hear(listen));
  await waitFor('all listens', () => open === listens, { deadlineMs: 60_000 });

  const more = await send(node.url('open'), listen);
  expect([more.status, more.json.error.code]).toEqual([429, 1006]);
  expect((await send(node.url('open'), call)).status).toBe(200);
  expect((await send(node.url('open'), asOther(call))).status).toBe(200);

  // One place is left for streams at the server.
  held.push(hear(asOther(listen)));
  await waitFor('the listen of another', () => open === listens + 1);
  const full = await send(node.url('open'), asOther(listen));
  expect([full.status, full.json.error.code]).toEqual([503, 1040]);
  expect((await send(node.url('open'), asOther(call))).status).toBe(200);

  stop.abort();
  await Promise.all(held);
  await waitFor('room again', async () => {
    const again = new AbortController();
    const answer = send(node.url('open'), { ...listen, signal: again.signal, onChunk: () => again.abort() });
    return (await answer.catch(() => ({ status: 200 }))).status === 200;
  });
}, 120_000);
