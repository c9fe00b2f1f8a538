import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';

/** Stands before a server and passes every byte on; sees how the calls that run until they are cancelled end. */
export interface Tap {
  readonly url: string;
  /** Such calls that reached the server. */
  readonly calls: number;
  /**
   * Times that one was cancelled as its revision wants it: by closing its stream in 2026-07-28, by a notification before
   * (2026-07-28 and 2025-11-25 basic/utilities/cancellation).
   */
  readonly cancellations: number;
  stop(): Promise<void>;
}

/** @param mark stands in the body of a call that runs until it is cancelled, and in no other */
export async function startTap(target: string, mark = 'none'): Promise<Tap> {
  const { hostname, port, pathname } = new URL(target);
  const seen = { cancellations: 0, calls: 0 };
  const pass = (incoming: IncomingMessage, outgoing: ServerResponse): void => {
    const headers = { ...incoming.headers, host: `${hostname}:${port}` };
    const onward = request({ hostname, port, path: incoming.url, method: incoming.method, headers, agent: false });
    const isModern = incoming.headers['mcp-protocol-version'] === '2026-07-28';
    let isCall = false;
    let isOver = false;
    incoming.on('data', (chunk: Buffer) => {
      if (!isModern && chunk.includes('"notifications/cancelled"')) seen.cancellations += 1;
      if (!chunk.includes('"tools/call"') || !chunk.includes(mark)) return;
      isCall = true;
      seen.calls += 1;
    });
    onward.once('response', (response) => {
      outgoing.writeHead(response.statusCode ?? 502, response.rawHeaders);
      outgoing.flushHeaders();
      response.once('error', () => outgoing.destroy());
      response.once('end', () => (isOver = true));
      response.pipe(outgoing);
    });
    onward.once('error', () => outgoing.destroy());
    outgoing.once('close', () => {
      if (isModern && isCall && !isOver) seen.cancellations += 1;
      onward.destroy();
    });
    incoming.pipe(onward);
  };
  const server = createServer(pass);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}${pathname}`,
    get calls() {
      return seen.calls;
    },
    get cancellations() {
      return seen.cancellations;
    },
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
