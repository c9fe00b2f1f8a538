/**
 * Very many calls of many principals whose JSON-RPC ids collide, to one shared upstream with random delays, and the
 * check that each answer is that of its own request.
 */
import { RawConnection } from './raw-connection.ts';

export interface CallersOptions {
  /** Nodes, used in turn by each principal. */
  readonly nodes: readonly string[];
  readonly slug: string;
  /** API key by principal. */
  readonly keys: Readonly<Record<string, string>>;
  /** Responses in all. */
  readonly responses: number;
}

export interface CallersResult {
  readonly responses: number;
  readonly progress: number;
  /** Answers or notifications that belong to another request or principal. */
  readonly mixed: number;
  /** The first few of them, and of answers that were none. */
  readonly examples: readonly string[];
  readonly failures: number;
  readonly seconds: number;
}

/** Each principal uses the same few ids, one after the other, as SDKs do. */
const idsPerPrincipal = 50;
const delayMsMax = 8;
/** One call in so many is answered by a stream with progress before the answer. */
const streamedShare = 20;
const progressPerCall = 2;
const examplesMax = 5;
const prefix = 'io.modelcontextprotocol/';
const envelope = {
  [`${prefix}protocolVersion`]: '2026-07-28',
  [`${prefix}clientInfo`]: { name: 'isolation', version: '1.0.0' },
  [`${prefix}clientCapabilities`]: {},
};

interface Sent {
  readonly id: number;
  readonly nonce: string;
  readonly principal: string;
  readonly progressToken: number;
  readonly progress: number;
}

class Checker {
  responses = 0;
  progress = 0;
  mixed = 0;
  failures = 0;
  readonly examples: string[] = [];

  check(sent: Sent, status: number, body: string): void {
    this.responses++;
    const messages = body.startsWith('{') ? [body] : body.split('\n').flatMap(dataOf);
    if (status !== 200 || messages.length !== sent.progress + 1) {
      this.failures++;
      this.note(sent, `${status} ${body}`);
      return;
    }
    for (const [at, text] of messages.entries()) {
      const isAnswer = at === messages.length - 1;
      if (!isAnswer) this.progress++;
      if (isAnswer ? isAnswerTo(sent, text) : isProgressOf(sent, text)) continue;
      this.mixed++;
      this.note(sent, text);
    }
  }

  note(sent: Sent, text: string): void {
    if (this.examples.length < examplesMax) this.examples.push(`${JSON.stringify(sent)} got ${text.slice(0, 300)}`);
  }
}

function dataOf(line: string): string[] {
  return line.startsWith('data: ') ? [line.slice(6)] : [];
}

function isAnswerTo(sent: Sent, text: string): boolean {
  const { id, result } = JSON.parse(text) as { id: unknown; result?: { content?: { text?: string }[] } };
  const echoed = JSON.parse(result?.content?.[0]?.text ?? '{}') as { nonce?: string; principal?: string };
  return id === sent.id && echoed.nonce === sent.nonce && echoed.principal === sent.principal;
}

function isProgressOf(sent: Sent, text: string): boolean {
  const { params } = JSON.parse(text) as { params?: { progressToken?: unknown; message?: unknown } };
  return params?.progressToken === sent.progressToken && params.message === sent.nonce;
}

/** Calls of one principal, one after the other, alternating between the nodes. */
async function callInTurn(
  principal: string,
  key: string,
  count: number,
  { nodes, slug }: CallersOptions,
  checker: Checker,
): Promise<void> {
  const connections = nodes.map((node) => new RawConnection(new URL(node)));
  const head = [
    `POST /mcp/${slug} HTTP/1.1`,
    'host: 127.0.0.1',
    `authorization: Bearer ${key}`,
    'content-type: application/json',
    'accept: application/json, text/event-stream',
    'mcp-protocol-version: 2026-07-28',
    'mcp-method: tools/call',
    'mcp-name: echo',
    '',
  ].join('\r\n');
  for (let turn = 0; turn < count; turn++) {
    const id = turn % idsPerPrincipal;
    const progress = Math.random() * streamedShare < 1 ? progressPerCall : 0;
    const sent: Sent = { id, nonce: `${principal}/${turn}`, principal, progressToken: id, progress };
    const values = { nonce: sent.nonce, principal, progress, delayMs: Math.floor(Math.random() * delayMsMax) };
    const _meta = { ...envelope, progressToken: id };
    const params = { name: 'echo', arguments: values, _meta };
    const body = JSON.stringify({ jsonrpc: '2.0', id, method: 'tools/call', params });
    const response = await connections[turn % connections.length]?.send(head, body);
    checker.check(sent, response?.status ?? 0, response?.body ?? '');
  }
  for (const connection of connections) connection.close();
}

export async function runCallers(options: CallersOptions): Promise<CallersResult> {
  const checker = new Checker();
  const principals = Object.entries(options.keys);
  const each = Math.ceil(options.responses / principals.length);
  const began = performance.now();
  await Promise.all(principals.map(([principal, key]) => callInTurn(principal, key, each, options, checker)));
  const { responses, progress, mixed, failures, examples } = checker;
  return { responses, progress, mixed, failures, examples, seconds: (performance.now() - began) / 1000 };
}
