/** A real HTTP proxy that carries connections (CONNECT) to where a test says. */
import { createServer } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

export interface ConnectProxy {
  readonly port: number;
  readonly url: string;
  /** What it was asked to connect to, in order: host and port. */
  readonly asked: string[];
  /** What it was told of who asks. */
  readonly credentials: (string | undefined)[];
  /** Where names lead; undefined: it refuses them. Addresses lead to themselves. */
  resolve: (host: string) => string | undefined;
  /** Answers with this instead, as it is. */
  answer: string | undefined;
  stop(): Promise<void>;
}

export async function startConnectProxy(): Promise<ConnectProxy> {
  const open = new Set<Socket>();
  const server = createServer((_request, response) => response.writeHead(405).end());
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
    socket.on('error', () => socket.destroy());
  });
  const stop = async (): Promise<void> => {
    for (const socket of open) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  };
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const proxy: ConnectProxy = {
    port,
    url: `http://127.0.0.1:${port}`,
    asked: [],
    credentials: [],
    resolve: () => undefined,
    answer: undefined,
    stop,
  };
  server.on('connect', (request, client: Socket) => {
    const [, host = '', targetPort] = /^\[?(.*?)\]?:(\d+)$/.exec(request.url ?? '') ?? [];
    proxy.asked.push(`${host}:${targetPort}`);
    proxy.credentials.push(request.headers['proxy-authorization']);
    if (proxy.answer !== undefined) {
      client.write(proxy.answer);
      return;
    }
    const address = /^[\d.]+$|:/.test(host) ? host : proxy.resolve(host);
    if (address === undefined) {
      client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
      return;
    }
    const upstream = connect(Number(targetPort), address, () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      client.pipe(upstream).pipe(client);
    });
    open.add(upstream);
    upstream.on('close', () => client.destroy());
    upstream.on('error', () => client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n'));
    client.on('close', () => upstream.destroy());
  });
  return proxy;
}
