/** Somebody outside who is asked by webhooks. */
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Delivery {
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly event: {
    readonly type: string;
    readonly data: Readonly<Record<string, unknown>> & { readonly digest: string };
  };
}

/** Answers a delivery: with a verdict, or in whatever way it likes. */
export type Answering = (delivery: Delivery, response: ServerResponse) => void;

export interface WebhookReceiver {
  readonly url: string;
  readonly deliveries: Delivery[];
  answer(answering: Answering): void;
  stop(): Promise<void>;
}

/** A verdict about the delivery, as the contract has it. */
export function verdictOn({ headers, event }: Delivery, verdict: object): string {
  return JSON.stringify({ contract: '1', id: headers['webhook-id'], digest: event.data.digest, ...verdict });
}

export function saying(verdict: object): Answering {
  return (delivery, response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(verdictOn(delivery, verdict));
  };
}

export async function startWebhookReceiver(): Promise<WebhookReceiver> {
  const deliveries: Delivery[] = [];
  let answering: Answering = saying({ decision: 'allow' });
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString('utf8');
      const delivery: Delivery = { headers: request.headers, body, event: JSON.parse(body) as Delivery['event'] };
      deliveries.push(delivery);
      answering(delivery, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/inspect`,
    deliveries,
    answer: (next) => {
      answering = next;
    },
    stop: () =>
      new Promise<void>((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
