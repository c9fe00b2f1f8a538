import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';

export interface AuthorizationShim {
  /** Where a client without a credential is pointed at; paths stay as they are. */
  readonly origin: string;
  stop(): Promise<void>;
}

interface ShimOptions {
  readonly target: URL;
  readonly bearer: string;
  /**
   * Called whenever no exchange is under way, with the number of answers so far and whether the last one asked the
   * client for input, which it is about to give.
   */
  readonly onQuiet?: (answers: number, asked: boolean) => void;
}

/**
 * Stands before an endpoint for clients that cannot send a bearer, such as the official conformance suite. Adds the
 * Authorization header and nothing else: method, path, every other header as it came (Host and Origin among them) and
 * the bytes of both bodies stay as they are.
 */
export async function startAuthorizationShim(options: ShimOptions): Promise<AuthorizationShim> {
  const traffic = { open: 0, answers: 0, asked: false };
  const server = createServer((incoming, outgoing) => {
    traffic.open += 1;
    outgoing.once('close', () => {
      traffic.open -= 1;
      traffic.answers += 1;
      if (traffic.open === 0) options.onQuiet?.(traffic.answers, traffic.asked);
    });
    pass(incoming, outgoing, options, (isQuestion) => (traffic.asked = isQuestion));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    origin: `http://127.0.0.1:${port}`,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function pass(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { target, bearer }: ShimOptions,
  onAnswer: (isQuestion: boolean) => void,
): void {
  const onward = request({
    host: target.hostname,
    port: target.port,
    method: incoming.method,
    path: incoming.url,
    headers: [...incoming.rawHeaders, 'Authorization', `Bearer ${bearer}`],
    setHost: false,
    agent: false,
  });
  onward.once('response', (response) => {
    outgoing.writeHead(response.statusCode ?? 502, response.statusMessage, response.rawHeaders);
    outgoing.flushHeaders();
    response.once('error', () => outgoing.destroy());
    onAnswer(false);
    response.on('data', (chunk: Buffer) => {
      if (chunk.includes('input_required')) onAnswer(true);
    });
    response.pipe(outgoing);
  });
  onward.once('error', () => outgoing.destroy());
  outgoing.once('close', () => onward.destroy());
  incoming.pipe(onward);
}
