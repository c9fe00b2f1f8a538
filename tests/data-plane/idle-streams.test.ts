import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mayOpenFiles } from '../kit/binaries.ts';
import { waitFor } from '../kit/condition.ts';
import { httpEngines } from '../kit/config.ts';
import type { FromStreams, StreamCounts, ToStreams } from './idle-streams-process.ts';
import { startPipelineNode, testKey } from './pipeline-node.ts';
import { modern, send } from './requests.ts';

const streams = 5_000;
const deadlineMs = 60_000;
const listen = modern('subscriptions/listen', { notifications: { toolsListChanged: true } }, 'listen-1');
const call = modern('tools/call', { name: 'count', arguments: {} });

const request = [
  'POST /mcp/open HTTP/1.1',
  'host: 127.0.0.1',
  `authorization: Bearer ${testKey}`,
  'content-type: application/json',
  'accept: application/json, text/event-stream',
  ...Object.entries(listen.headers).map(([name, value]) => `${name}: ${value}`),
  `content-length: ${Buffer.byteLength(listen.body)}`,
  '',
  listen.body,
].join('\r\n');

/** Both ends of each stream are the node's; what else a process needs is little. */
describe.skipIf(!mayOpenFiles(2 * streams + 1_000, `${streams} idle streams`))('a node', () => {
  let farEnds: ChildProcess;
  let gone: Promise<never>;
  let url = '';

  beforeAll(async () => {
    farEnds = fork(join(import.meta.dirname, 'idle-streams-process.ts'), { execArgv: [] });
    gone = once(farEnds, 'exit').then(() => {
      throw new Error('the process of the streams ended');
    });
    gone.catch(() => undefined);
    const [message] = (await once(farEnds, 'message')) as [FromStreams];
    url = 'url' in message ? message.url : '';
  });
  afterAll(() => {
    if (farEnds.connected) farEnds.disconnect();
  });

  async function ask(message: ToStreams): Promise<StreamCounts> {
    const answered = once(farEnds, 'message') as Promise<[StreamCounts]>;
    farEnds.send(message);
    return (await Promise.race([answered, gone]))[0];
  }

  test.each(httpEngines)(
    'with %s holds 5,000 idle streams, serves others beside them, and lets go of all with their clients',
    async (httpEngine) => {
      const node = await startPipelineNode({
        servers: [{ slug: 'open', url, tools: ['count'] }],
        grants: [{ server: 'open', tools: ['*'] }],
        // Half of each is for streams.
        limits: { exchangesPerPrincipalMax: 2 * streams + 2, exchangesPerServerMax: 2 * streams + 2 },
        exchangesMax: 2 * streams + 2,
        egress: { connectionsPerOriginMax: streams + 10 },
        listener: { connectionsMax: streams + 10 },
        keepRecords: false,
        httpEngine,
      });
      try {
        const held = await ask({ type: 'open', port: node.port, request, streams });
        expect([held, node.listener.open]).toEqual([{ clients: streams, upstream: streams }, streams]);
        expect((await send(node.url('open'), call)).status).toBe(200);
        expect(await ask({ type: 'count' })).toEqual(held);
        await ask({ type: 'close' });
        const isOver = async (): Promise<boolean> => {
          const { clients, upstream } = await ask({ type: 'count' });
          return clients + upstream + node.listener.open === 0;
        };
        await waitFor('all streams are gone', isOver, { deadlineMs, intervalMs: 50 });
      } finally {
        await node.stop();
      }
    },
    2 * deadlineMs,
  );
});
