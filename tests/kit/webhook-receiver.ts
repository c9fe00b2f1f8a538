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

/** Answers with these bytes, as JSON unless headers say otherwise. */
export function answering(status: number, body: string, headers: Record<string, string> = {}): Answering {
  return (_delivery, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    response.end(body);
  };
}

/** What was said of another message: of the same receiver, and signed for all that. */
const foreign =
  (other: (delivery: Delivery) => Delivery): Answering =>
  (delivery, response) =>
    answering(200, verdictOn(other(delivery), { decision: 'allow' }))(delivery, response);

/** Each way in which a receiver gives no verdict, and how the record calls it. */
export const receiverFailures: readonly (readonly [name: string, reason: string, Answering])[] = [
  ['does not answer in time', 'timeout', () => undefined],
  ['answers 500', 'status', answering(500, '{}')],
  ['answers with a redirect', 'redirect', answering(302, '', { location: 'https://elsewhere.example/' })],
  ['answers with no JSON', 'answerInvalid', answering(200, 'yes, go on')],
  [
    'answers with a value nested without end',
    'answerInvalid',
    (delivery, response) => {
      const patch = [{ op: 'replace', path: '/params/arguments/id', value: '@' }];
      const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
      answering(200, verdictOn(delivery, { decision: 'modify', patch }).replace('"@"', deep))(delivery, response);
    },
  ],
  ['answers what is no verdict', 'answerInvalid', saying({ decision: 'require_approval' })],
  [
    'answers with another content type',
    'contentType',
    (delivery, response) =>
      answering(200, verdictOn(delivery, { decision: 'allow' }), { 'content-type': 'text/html' })(delivery, response),
  ],
  ['answers too much', 'answerTooLarge', answering(200, `"${'x'.repeat(5 * 1_048_576)}"`)],
  [
    'repeats a verdict about another message',
    'foreignVerdict',
    foreign((delivery) => ({ ...delivery, headers: { 'webhook-id': 'msg_earlier' } })),
  ],
  [
    'answers about another content',
    'foreignVerdict',
    foreign(({ event, ...delivery }) => ({
      ...delivery,
      event: { ...event, data: { ...event.data, digest: 'sha-256:0' } },
    })),
  ],
  ['hangs up', 'unreachable', (_delivery, response) => void response.destroy()],
];

export async function startWebhookReceiver(): Promise<WebhookReceiver> {
  const deliveries: Delivery[] = [];
  let current: Answering = saying({ decision: 'allow' });
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString('utf8');
      const delivery: Delivery = { headers: request.headers, body, event: JSON.parse(body) as Delivery['event'] };
      deliveries.push(delivery);
      current(delivery, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/inspect`,
    deliveries,
    answer: (next) => {
      current = next;
    },
    stop: () =>
      new Promise<void>((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
