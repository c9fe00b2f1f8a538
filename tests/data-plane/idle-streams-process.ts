/**
 * Both far ends of very many streams: clients that listen, and the upstream that they listen to. In a process of its own,
 * since with the node in the same one they would need more descriptors than most systems let a process have.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

export interface StreamCounts {
  /** Clients to whom the first event of their stream came. */
  readonly clients: number;
  /** Streams of the upstream that are open. */
  readonly upstream: number;
}

export type ToStreams =
  /** Opens further streams; answered with counts when each has its first event. */
  | { readonly type: 'open'; readonly port: number; readonly request: string; readonly streams: number }
  | { readonly type: 'count' }
  /** Closes all clients; answered with counts at once. */
  | { readonly type: 'close' };
export type FromStreams = { readonly url: string } | StreamCounts;

/** Clients that connect at the same time; more than a listener lets wait would be refused. */
const openedAtOnce = 100;
const clients: Socket[] = [];
let hearing = 0;
let upstreamStreams = 0;

const tell = (message: FromStreams): void => void process.send?.(message);
const counts = (): StreamCounts => ({ clients: hearing, upstream: upstreamStreams });

function serve(incoming: IncomingMessage, response: ServerResponse): void {
  incoming.resume();
  if (incoming.headers['mcp-method'] !== 'subscriptions/listen') {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end('{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[]}}');
    return;
  }
  upstreamStreams++;
  response.once('close', () => upstreamStreams--);
  response.writeHead(200, { 'content-type': 'text/event-stream' }).write(': open\n\n');
}

/** Resolves when the stream's first event has come. */
function openStream(port: number, request: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const client = connect(port, '127.0.0.1', () => client.write(request));
    clients.push(client);
    let text = '';
    client.on('data', (chunk: Buffer) => {
      if (text.includes(': open')) return;
      text += chunk.toString('latin1');
      if (!text.includes(': open')) return;
      hearing++;
      resolve();
    });
    client.once('error', reject);
    client.once('close', () => {
      if (text.includes(': open')) hearing--;
      else reject(new Error(`no stream, but ${text.slice(0, 500)}`));
    });
  });
}

async function open({ port, request, streams }: Extract<ToStreams, { type: 'open' }>): Promise<void> {
  let left = streams;
  const openNext = async (): Promise<void> => {
    while (left-- > 0) await openStream(port, request);
  };
  await Promise.all(Array.from({ length: openedAtOnce }, openNext));
}

async function handle(message: ToStreams): Promise<void> {
  if (message.type === 'open') await open(message);
  if (message.type === 'close') for (const client of clients.splice(0)) client.destroy();
  tell(counts());
}

const server = createServer(serve);
server.listen(0, '127.0.0.1', () => tell({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp` }));
process.on('disconnect', () => process.exit(0));
process.on('message', (message: ToStreams) => {
  handle(message).catch((error: unknown) => {
    // Whoever waits for an answer gets none, and reads why.
    process.stderr.write(`${String(error)}\n`);
    process.exit(1);
  });
});
