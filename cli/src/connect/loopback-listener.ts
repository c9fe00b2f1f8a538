import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

const path = '/callback';
const pageHeaders = {
  'content-type': 'text/html; charset=utf-8',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'cache-control': 'no-store',
  'referrer-policy': 'no-referrer',
} as const;

/** Where the browser comes back to after a login: a port of this machine that is open while it lasts (RFC 8252 §7.3). */
export interface LoopbackListener {
  readonly redirectUrl: string;
  /** The parameters of the answer that has this state; other requests are turned away and waited on. */
  answer(state: string): Promise<URLSearchParams>;
  close(): void;
}

export async function startLoopbackListener(): Promise<LoopbackListener> {
  const answered = Promise.withResolvers<URLSearchParams>();
  let expected: string | undefined;
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url ?? '', 'http://127.0.0.1');
    const isAnswer = request.method === 'GET' && url.pathname === path && expected !== undefined;
    if (!isAnswer || url.searchParams.get('state') !== expected) {
      response.writeHead(isAnswer ? 400 : 404, pageHeaders).end(page('This is not the answer that was waited for.'));
      return;
    }
    const failed = url.searchParams.has('error');
    response
      .writeHead(200, { ...pageHeaders, connection: 'close' })
      .end(page(failed ? 'The login was refused. You can close this window.' : 'Done. You can close this window.'));
    answered.resolve(url.searchParams);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    redirectUrl: `http://127.0.0.1:${port}${path}`,
    answer: (state) => {
      expected = state;
      return answered.promise;
    },
    close: () => {
      server.close();
      server.closeIdleConnections();
    },
  };
}

function page(text: string): string {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>Sallyport</title><p>${text}</p></html>\n`;
}
