import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { systemClock } from '@sallyport/schema/platform';
import { expect, test } from 'vitest';
import type { CallHandler } from '../upstream/connections.ts';
import { UpstreamPools } from './upstream-pools.ts';

test('a call that nobody waits for any more leaves the queue, while all connections are taken', async () => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => void sockets.push(socket.on('error', () => undefined)));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const dial = async (): Promise<Socket> => {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    return socket;
  };
  const pools = new UpstreamPools({
    egress: { dialler: () => dial },
    connectionsPerOriginMax: 1,
    clock: systemClock,
  });
  const url = new URL(`http://127.0.0.1:${port}/`);
  const request = { origin: url.origin, path: '/', method: 'POST' as const, headers: [], body: Buffer.from('{}') };
  const started: string[] = [];
  const first = Promise.withResolvers<void>();
  pools.pool(url).dispatch(request, {
    onRequestStart: () => void started.push('first'),
    onResponseEnd: () => first.resolve(),
  });
  const looked = Promise.withResolvers<void>();
  const over: CallHandler = {
    get isOver() {
      looked.resolve();
      return true;
    },
    onRequestStart: () => void started.push('over'),
  };
  pools.pool(url).dispatch(request, over);
  await looked.promise;
  expect(started).toEqual(['first']);
  sockets[0]?.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
  await first.promise;
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  expect(started).toEqual(['first']);
  pools.close();
  server.close();
});
